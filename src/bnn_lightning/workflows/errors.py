"""Errors that the user can mend, and their messages."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from bnn_lightning.utils.text import did_you_mean as did_you_mean

# Errors of reading data and weights, those of optional libraries included.
READING = (ValueError, OSError, RuntimeError, ModuleNotFoundError)


class UserError(ValueError):
    """Error that the user can mend; its text says what is wrong and what to do."""


class UntrustedFileError(UserError):
    """A file whose configuration names classes of a package of the user's own, which is not trusted.

    Args:
        refused: Refusal, in words.
        package: The package.
        remedy: Command that trusts the package.
    """

    def __init__(self, refused: str, package: str, remedy: str) -> None:
        self.refused, self.package = refused, package
        super().__init__(
            f"{refused} Of other packages than ours it is what files of a configuration folder of your own name in "
            f"`_target_`, or what trust=[{package}] allows:\n  {remedy}"
        )


def listed(names: Iterable[str]) -> str:
    """Return names as one line, sorted.

    Example:
        >>> listed(["b", "a"])
        'a, b'
    """
    return ", ".join(sorted(names)) or "nothing"


@contextmanager
def as_user_error(begin: str = "", of: tuple[type[Exception], ...] = (ValueError, OSError)) -> Iterator[None]:
    """Turn errors of values and files within a block into errors that the user can mend.

    Args:
        begin: Begin of the message, such as the key of the value.
        of: Classes of the errors.

    Raises:
        UserError: Says what the error said.

    Example:
        >>> with as_user_error("`size`: "):
        ...     int("large")
        Traceback (most recent call last):
        bnn_lightning.workflows.errors.UserError: `size`: invalid literal for int() with base 10: 'large'
    """
    try:
        yield
    except UserError:
        raise
    except of as error:
        raise UserError(f"{begin}{explain(error)}") from error


def explain(error: BaseException) -> str:
    """Return one message for an error of files, of values, or ours."""
    if isinstance(error, OSError) and error.strerror:
        return f"`{error.filename}`: {error.strerror}." if error.filename else f"{error.strerror}."
    return str(error).strip()
