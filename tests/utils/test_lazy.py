import sys
from pathlib import Path

import pytest

from bnn_lightning.utils.lazy import attach


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "lazy_example"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from bnn_lightning.utils.lazy import attach\n"
        "__getattr__, __dir__, __all__ = attach(__name__, {'shapes': ['Square', 'circle'], 'plain': []})\n"
    )
    (folder / "shapes.py").write_text("class Square: ...\ncircle = 3\n")
    (folder / "plain.py").write_text("value = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "lazy_example"
    for name in [name for name in sys.modules if name.startswith("lazy_example")]:
        del sys.modules[name]


def test_a_submodule_is_imported_when_its_name_is_used(package: str) -> None:
    module = __import__(package)
    assert module.__all__ == dir(module) == ["Square", "circle", "plain"]
    assert f"{package}.shapes" not in sys.modules
    assert module.circle == 3
    assert module.Square is sys.modules[f"{package}.shapes"].Square
    assert f"{package}.plain" not in sys.modules
    assert module.plain.value == 7


def test_unknown_name() -> None:
    getter, _, _ = attach("package", {"shapes": ["Square"]})
    with pytest.raises(AttributeError, match=r"module 'package' has no attribute 'shapes'\."):
        getter("shapes")
