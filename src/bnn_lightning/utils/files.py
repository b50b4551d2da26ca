"""Atomic writing of files."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what was written there takes the place of `path` at the end.

    An error, a kill or a full disk leaves the old file as it was. The temporary file has the suffix of `path`, which
    tells some writers the format.

    Args:
        path: The file to write, in a folder that exists.

    Raises:
        OSError: It could not be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder, "page.html")) as temporary:
        ...         _ = temporary.write_text("whole")
        ...     os.listdir(folder)
        ['page.html']
    """
    path = Path(path)
    _check_replaceable(path)
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_writable(path: str | Path) -> None:
    """See that a file can be written, before the work that it is for; what is there stays.

    Raises:
        OSError: There is no such folder, it is read-only, its disk is full, or `path` is a folder or a device.
    """
    path = Path(path)
    _check_replaceable(path)
    probe = path.with_name(f".{path.stem}.probe{path.suffix}")
    try:
        with probe.open("wb") as file:  # a write, as a full disk still makes empty files
            file.write(bytes(1))
            file.flush()
            os.fsync(file.fileno())
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def _check_replaceable(path: Path) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "There is no such folder to write to; make it first", str(path.parent))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():  # as root, a file would take the place of /dev/null
        raise OSError(errno.EINVAL, "It is a device or a pipe, and no file may take its place", str(path))


def space(folder: Path) -> str:
    """Return the free space, as a sentence of a message."""
    with suppress(OSError):
        return f" {shutil.disk_usage(folder).free / 2**20:.0f} MiB are free there."
    return ""


def sync_file(path: Path) -> None:
    """Bring what was written to the disk."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Bring a rename to the disk, where the system allows it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # some network file systems
            raise
    finally:
        os.close(descriptor)
