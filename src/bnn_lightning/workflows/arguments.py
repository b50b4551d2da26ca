"""Arguments of whatever is built, held against its signature: names, types of plain values, and what is missing."""

import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from bnn_lightning.workflows.errors import UserError, did_you_mean, listed

# Keys of a node that say what is built; the others are its arguments.
NODE_KEYS = ("_target_", "_partial_", "_convert_", "_recursive_")


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any], at: str, *, partial: bool) -> None:
    """Hold arguments against a signature: names, types of plain values, and what is missing.

    Args:
        function: Function or class that will be called.
        arguments: Keyword arguments, nested nodes still as dictionaries.
        at: Place of the arguments in the configuration.
        partial: More arguments will be given later.

    Raises:
        UserError: An argument that does not exist, has another type, or is missing.

    Example:
        >>> def sgd(lr: float, nesterov: bool = False) -> None: ...
        >>> check_arguments(sgd, {"lr": 0.1, "nesterov": "yes"}, "optimizer", partial=False)
        Traceback (most recent call last):
        ...
        bnn_lightning.workflows.errors.UserError: `optimizer.nesterov` must be true or false, got 'yes'.
    """
    parameters = _signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {name: p for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    what = getattr(function, "__name__", str(function))
    for name, value in arguments.items():
        if name not in named:
            if takes_any:
                continue
            near = did_you_mean(name, named)
            raise UserError(f"`{at}.{name}`: {what} has no argument `{name}`.{near} It takes: {listed(named)}.")
        check_value(value, named[name].annotation, f"{at}.{name}")
    missing = [name for name, p in named.items() if p.default is p.empty and name not in arguments]
    if missing and not partial:
        raise UserError(f"`{at}`: {what} needs {', '.join(f'`{at}.{name}`' for name in missing)}.")


def check_value(value: Any, annotation: Any, at: str) -> None:
    """Raise `UserError` where a plain value is not of the annotated type, or is an empty string."""
    if value == "" and isinstance(value, str):
        raise UserError(f"`{at}` is empty: give a value (`{at}=...`), or null.")
    if not _accepts(annotation, value):
        written = {"True": "true", "False": "false", "None": "null"}
        raise UserError(f"`{at}` must be {_describe(annotation)}, got {written.get(repr(value), repr(value))}.")


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except (NameError, TypeError, AttributeError):  # annotations that exist for type checkers only
        return inspect.signature(function)


def _accepts(annotation: Any, value: Any) -> bool:
    # Lenient: False only where the annotation is made of plain types and the value is of none of them.
    if annotation in (Any, inspect.Parameter.empty):
        return True
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_accepts(a, value) for a in arguments)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if annotation in (None, type(None)):
        return value is None
    if annotation is bool:
        return isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is str:
        return isinstance(value, str)
    container = origin or annotation
    if inspect.isclass(container):
        if issubclass(container, Collection) and not issubclass(container, str | bytes):
            return _accepts_collection(container, arguments, value)
        # A class or a callable comes from a node, a path from a string; numbers may be asked for as `numbers.Number`.
        return isinstance(value, container) or not isinstance(value, bool | int | float | None)
    return True


def _accepts_collection(container: type, arguments: tuple[Any, ...], value: Any) -> bool:
    if isinstance(value, Mapping):
        return issubclass(container, Mapping) or "_target_" in value
    if issubclass(container, Mapping) or not isinstance(value, list | tuple):
        return False
    kinds = [a for a in arguments if a is not Ellipsis]
    if len(kinds) > 1:
        return len(kinds) == len(value) and all(map(_accepts, kinds, value))
    return not kinds or all(_accepts(kinds[0], item) for item in value)


_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
    None: "null",
}


def _describe(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _WORDS:
        return _WORDS[annotation]
    if origin in (typing.Union, types.UnionType):
        choices = [choice for a in arguments if typing.get_origin(a) is Literal for choice in typing.get_args(a)]
        others = [_describe(a) for a in arguments if typing.get_origin(a) is not Literal]
        return " or ".join(dict.fromkeys([*others, *([_one_of(choices)] if choices else [])]))
    if origin is Literal:
        return _one_of(arguments)
    container = origin or annotation
    if inspect.isclass(container) and issubclass(container, Mapping):
        return "a mapping"
    if inspect.isclass(container) and issubclass(container, Collection):
        return "a list" + (f" ({_describe(arguments[0])} each)" if arguments else "")
    return f"a node with a `_target_` ({getattr(container, '__name__', container)})"


def _one_of(choices: Sequence[Any]) -> str:
    names = list(dict.fromkeys(map(str, choices)))
    return f"one of {', '.join(names)}" if len(names) > 1 else names[0]
