"""Checks of numeric options."""

from collections.abc import Callable


def check_number(name: str, value: object, rule: str, valid: Callable[[float], bool]) -> None:
    """Raise `ValueError` unless `value` is a number and `valid`.

    Example:
        >>> check_number("flip", 2, "a probability in [0, 1]", lambda p: 0 <= p <= 1)
        Traceback (most recent call last):
        ValueError: `flip` must be a probability in [0, 1], got 2.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not valid(value):
        raise ValueError(f"`{name}` must be {rule}, got {value!r}.")


def check_integer(name: str, value: object, least: int) -> None:
    """Raise `ValueError` unless `value` is an integer that is not below `least`."""
    check_number(
        name, value, f"an integer, {least} or more", lambda number: isinstance(number, int) and number >= least
    )
