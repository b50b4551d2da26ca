"""Files that commands write: checked before the work, and whole or not there."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bnn_lightning.utils.files import check_writable, replacing, space
from bnn_lightning.workflows.errors import UserError


def check_out_folder(folder: Path, files: Sequence[str]) -> None:
    """Refuse a folder whose files cannot be written, before the work that they are for.

    Args:
        folder: A new folder in one that exists, or one that is there.
        files: Names of its files.

    Raises:
        UserError: See `check_out`.
    """
    if not folder.is_dir():
        check_out(folder)
        return
    for name in files:
        check_out(folder / name)


def check_out(path: Path, key: str = "out") -> None:
    """Refuse a file that cannot be written, before the work that it is for.

    Args:
        path: The file.
        key: Key of the configuration, for messages.

    Raises:
        UserError: There is no such folder, it is read-only, its disk is full, or `path` is a folder or a device.
    """
    if not path.parent.is_dir():
        raise UserError(f"`{key}`: there is no folder {path.parent}.")
    try:
        check_writable(path)
    except OSError as error:
        raise UserError(f"`{key}`: {path} cannot be written: {error.strerror or error}.{space(path.parent)}") from error


@contextmanager
def written(path: Path, key: str = "out") -> Iterator[Path]:
    """Yield a temporary path to write to, which takes the place of `path` once it is whole.

    Args:
        path: The file.
        key: Key of the configuration, for messages.

    Raises:
        UserError: It could not be written.
    """
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise unwritten(path, key, error) from error


def unwritten(path: Path, key: str, error: OSError) -> UserError:
    """Return the message on a file that cannot be written."""
    stays = " The file that is there is unchanged." if path.exists() else ""
    return UserError(f"`{key}`: {path} could not be written: {error.strerror or error}.{space(path.parent)}{stays}")
