"""Download of one file: resumed, checked, and placed whole."""

import hashlib
import http.client
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from filelock import FileLock

from bnn_lightning.zoo.receipts import ZooError

_LOGGER = logging.getLogger(__name__)  # the command line prints its records
_TIMEOUT = 30.0  # seconds without a byte
_PIECE = 1 << 20
_PARTIAL, _OUT_OF_RANGE = 206, 416  # HTTP status


def download(url: str, path: Path, *, size: int, sha256: str) -> Path:
    """Download a file, once for all processes that ask for it at the same time.

    What an earlier attempt left is gone on with. The file appears at `path` once its bytes and checksum are right. On a
    file system without locks each process downloads on its own, from the beginning.

    Args:
        url: Address.
        path: Path of the file; its folder is made.
        size: Bytes of the file.
        sha256: Its checksum, in hexadecimal digits.

    Returns:
        The path.

    Raises:
        ZooError: No answer, another file than expected, a connection that ended, or a folder that cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _partial_file(path) as part:
            if not (path.is_file() and checksum(path) == sha256):  # another process may have placed it meanwhile
                _fetch(url, part, size, sha256)
                _place(part, path)
    except HTTPError as error:
        raise ZooError(f"{url}: the server answers {error.code} {error.reason}. Is BNN_ZOO_URL right?") from error
    except (URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise ZooError(f"{url}: {getattr(error, 'reason', error)}. Run the same command again.") from error
    except OSError as error:
        raise ZooError(f"`{error.filename or path}`: {error.strerror or error} (XDG_CACHE_HOME moves it).") from error
    return path


@contextmanager
def _partial_file(path: Path) -> Iterator[Path]:
    """Yield the partial file of a file, which no other process writes meanwhile."""
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(f"{path}.lock"))
            part = path.with_name(f"{path.name}.part")
        except NotImplementedError:  # a file system without locks
            own = tempfile.TemporaryDirectory(prefix=f"{path.name}.", suffix=".part", dir=path.parent)
            part = Path(stack.enter_context(own)) / path.name
        yield part


def _fetch(url: str, part: Path, size: int, sha256: str) -> None:
    resumed = part.is_file() and part.stat().st_size > 0
    _LOGGER.info("%s %s (%s bytes)", "resuming" if resumed else "downloading", url, f"{size:,}")
    _transfer(url, part, size)
    if resumed and part.stat().st_size >= size and checksum(part) != sha256:  # the beginning may be of another version
        part.unlink()
        _transfer(url, part, size)
    there = part.stat().st_size
    if there < size:
        raise ZooError(f"{url}: the connection ended after {there:,} of {size:,} bytes. Run the same command again.")
    if (found := checksum(part)) != sha256:
        part.unlink()
        raise ZooError(
            f"{url}: its SHA-256 is {found}, and {sha256} was expected: another version of the file, or a damaged one."
        )


def _transfer(url: str, part: Path, size: int) -> None:
    """Append what is missing to a partial file; stop one byte behind the size that is expected."""
    done = part.stat().st_size if part.is_file() else 0
    if done >= size:
        return
    try:
        answer = urlopen(Request(url, headers={"Range": f"bytes={done}-"} if done else {}), timeout=_TIMEOUT)
    except HTTPError as error:
        if error.code != _OUT_OF_RANGE or not done:
            raise
        part.unlink()  # it is longer than what the server has
        _transfer(url, part, size)
        return
    with answer:
        goes_on = answer.status == _PARTIAL and answer.headers.get("Content-Range", "").startswith(f"bytes {done}-")
        done = done if goes_on else 0
        with part.open("ab" if goes_on else "wb") as file:
            while done <= size and (piece := answer.read(_PIECE)):
                file.write(piece)
                done += len(piece)


def _place(part: Path, path: Path) -> None:
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    with suppress(OSError):  # Windows opens no folders, and some network file systems sync none
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
