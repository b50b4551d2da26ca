import importlib
import inspect
import pkgutil
import sys
from pathlib import Path

import pytest

import bnn_lightning
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


def packages() -> list[str]:
    found = pkgutil.walk_packages(bnn_lightning.__path__, "bnn_lightning.")
    return ["bnn_lightning", *(module.name for module in found if module.ispkg)]


@pytest.mark.parametrize("package", packages())
def test_no_exported_name_is_shadowed_by_a_module(package: str) -> None:
    module = importlib.import_module(package)
    for inner in pkgutil.iter_modules(module.__path__):
        importlib.import_module(f"{package}.{inner.name}")  # which binds the module's name in the package
    for name in getattr(module, "__all__", []):
        assert getattr(module, name) is module.__getattr__(name), f"{package}.{name}"


def test_functions_stay_functions() -> None:
    importlib.import_module("bnn_lightning.deploy.runtime.network")
    from bnn_lightning.deploy import capture

    assert inspect.isfunction(capture)
