from pathlib import Path

import pytest

from bnn_lightning.utils.optional import require


def test_what_is_installed_is_returned() -> None:
    assert require("os.path", extra="rich").__name__ in ("posixpath", "ntpath")


@pytest.mark.parametrize("module", ["no_such_module", "no_such_module.part"])
def test_what_is_absent_names_the_extra(module: str) -> None:
    with pytest.raises(ModuleNotFoundError) as caught:
        require(module, extra="wandb")
    assert str(caught.value) == f"`{module}` is not installed; `pip install 'bnn-lightning[wandb]'` installs it."
    assert caught.value.name == "no_such_module"


def test_what_a_module_itself_lacks_is_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installing the extra would not help."""
    (tmp_path / "broken_example.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'no_such_module'$"):
        require("broken_example", extra="wandb")
