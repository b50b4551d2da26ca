"""Lazy subpackages: a name is imported when it is first used."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def attach(
    package: str, exports: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Make `__getattr__`, `__dir__` and `__all__` of a package whose names come from its submodules.

    Args:
        package: The package's `__name__`.
        exports: Names by submodule. A submodule with no names is itself the attribute.

    Returns:
        The three objects, to be bound in the package's `__init__.py` (PEP 562).

    Example:
        >>> getter, lister, names = attach("bnn_lightning.functional", {"sign": ["sign", "sign_ste"]})
        >>> names
        ['sign', 'sign_ste']
    """
    origin = {name: module for module, names in exports.items() for name in (names or [module])}

    def getter(name: str) -> Any:
        if name not in origin:
            raise AttributeError(f"module {package!r} has no attribute {name!r}.")
        module = importlib.import_module(f"{package}.{origin[name]}")
        return getattr(module, name) if name in exports[origin[name]] else module

    return getter, lambda: sorted(origin), sorted(origin)
