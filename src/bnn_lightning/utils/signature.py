"""Signatures of functions that pass `**options` on to others: configurations are held against them."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def merged_signature(function: Callable[..., Any], *others: Callable[..., Any]) -> inspect.Signature:
    """Return the parameters of a function, and in the place of its `**options` the keyword-only ones of others.

    Args:
        function: Function, or the constructor of a class.
        *others: Functions or classes that get its `**options`; of one name the parameter of a later one counts.

    Example:
        >>> def scale(x: int, *, factor: int = 2, offset: int = 0) -> int: ...
        >>> def triple(x: int, *, factor: int = 3, **options: int) -> int: ...
        >>> merged_signature(triple, scale)
        <Signature (x: int, *, factor: int = 3, offset: int = 0) -> int>
    """
    signature = inspect.signature(function)
    own = {p.name: p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD and p.name != "self"}
    if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        passed = [p for other in others for p in inspect.signature(other).parameters.values()]
        own = {p.name: p for p in passed if p.kind is p.KEYWORD_ONLY} | own
    return signature.replace(parameters=sorted(own.values(), key=lambda p: p.kind))


def passes_on(*others: Callable[..., Any]) -> Callable[[Function], Function]:
    """Decorate a function that passes its `**options` on to `others`: its signature names all arguments."""

    def decorate(function: Function) -> Function:
        function.__signature__ = merged_signature(function, *others)  # type: ignore[attr-defined]
        return function

    return decorate
