"""Signatures of functions that pass `**options` on to others: configurations are held against them."""

import inspect
from collections.abc import Callable, Collection
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def merged_signature(
    function: Callable[..., Any], *others: Callable[..., Any], passed: Collection[str] = ()
) -> inspect.Signature:
    """Return the parameters of a function, and in the place of its `**options` those of others, keyword-only.

    Positional parameters of the others without a default are left out: the function gives them itself, but for those
    of `passed`, which it may give or leave to its `**options`.

    Args:
        function: Function, or the constructor of a class.
        *others: Functions or classes that get its `**options`; of one name the parameter of a later one counts.
        passed: Names of positional parameters without a default.

    Example:
        >>> def scale(x: int, root: str = "data", *, factor: int = 2, offset: int = 0) -> int: ...
        >>> def triple(x: int, *, factor: int = 3, **options: int) -> int: ...
        >>> merged_signature(triple, scale)
        <Signature (x: int, *, root: str = 'data', factor: int = 3, offset: int = 0) -> int>
    """
    signature = inspect.signature(function)
    own = {p.name: p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD and p.name != "self"}
    if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        given = [p for other in others for p in inspect.signature(other).parameters.values()]
        optional = {p.name: p.replace(kind=p.KEYWORD_ONLY, default=None) for p in given if p.name in passed}
        own = optional | {p.name: p.replace(kind=p.KEYWORD_ONLY) for p in given if _is_option(p)} | own
    return signature.replace(parameters=sorted(own.values(), key=lambda p: p.kind))


def _is_option(parameter: inspect.Parameter) -> bool:
    """Whether a parameter may come from the `**options` of a function that passes them on."""
    has_default = parameter.default is not parameter.empty
    return parameter.kind is parameter.KEYWORD_ONLY or (
        parameter.kind is parameter.POSITIONAL_OR_KEYWORD and has_default
    )


def passes_on(*others: Callable[..., Any]) -> Callable[[Function], Function]:
    """Decorate a function that passes its `**options` on to `others`: its signature names all arguments."""

    def decorate(function: Function) -> Function:
        function.__signature__ = merged_signature(function, *others)  # type: ignore[attr-defined]
        return function

    return decorate
