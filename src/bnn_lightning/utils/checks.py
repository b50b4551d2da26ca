"""Checks of options: each error names the option, the rule and the value."""

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, get_args


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raise `ValueError` unless `value` is one of the choices of a `Literal`.

    Example:
        >>> from typing import Literal
        >>> check_choice("mode", "some", Literal["correct", "all"])
        Traceback (most recent call last):
        ValueError: `mode` must be one of ['correct', 'all'], got 'some'.
    """
    if value not in get_args(choices):
        raise ValueError(f"`{name}` must be one of {list(get_args(choices))}, got {value!r}.")


def check_positive(name: str, value: float) -> None:
    """Raise `ValueError` unless `value` is above 0."""
    if not value > 0:
        raise ValueError(f"`{name}` must be positive, got {value}.")


def check_not_negative(name: str, value: float) -> None:
    """Raise `ValueError` unless `value` is 0 or more."""
    if not value >= 0:
        raise ValueError(f"`{name}` must not be negative, got {value}.")


def check_number(name: str, value: object, rule: str, valid: Callable[[float], bool]) -> None:
    """Raise `ValueError` unless `value` is a number and `valid`.

    Example:
        >>> check_number("flip", 2, "a probability in [0, 1]", lambda p: 0 <= p <= 1)
        Traceback (most recent call last):
        ValueError: `flip` must be a probability in [0, 1], got 2.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not valid(float(value)):
        raise ValueError(f"`{name}` must be {rule}, got {value!r}.")


def check_integer(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raise `ValueError` unless `value` is an integer, also one of NumPy, between `least` and `most`."""
    rule = f"a whole number of at least {least}" if most is None else f"a whole number between {least} and {most}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"`{name}` must be {rule}, got {value!r}.")
    if int(value) < least or (most is not None and int(value) > most):
        raise ValueError(f"`{name}` must be {rule}, got {value!r}.")
