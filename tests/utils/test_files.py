"""A file is whole, or it is the one before."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bnn_lightning.utils.files import check_writable, replacing
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.out_file import check_out, written


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Make real writes fail in the middle of a file, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "out.csv").write_text("old")
    return tmp_path / "out.csv"


def test_it_replaces_and_leaves_nothing_else(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.suffix == ".csv"
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["out.csv"]


def test_a_full_disk_leaves_the_old_file(path: Path) -> None:
    refused = pytest.raises(UserError, match=r"`out`: .*File too large.*unchanged")
    with files_of_at_most(100), refused, written(path) as temporary:
        temporary.write_bytes(bytes(1000))
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["out.csv"]


def test_any_error_leaves_the_old_file(path: Path) -> None:
    with pytest.raises(LookupError), replacing(path) as temporary:
        {}[temporary.write_text("half")]
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["out.csv"]


def test_a_place_is_looked_at_before_the_work(path: Path) -> None:
    check_writable(path)
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["out.csv"]
    with files_of_at_most(0), pytest.raises(UserError, match="`chart`"):
        check_out(path, "chart")
    for place in (path.parent / "nowhere" / "a.csv", path.parent, Path("/proc/a.csv")):
        with pytest.raises(UserError, match="`out`"):
            check_out(place)
    assert os.listdir(path.parent) == ["out.csv"]


def test_a_folder_that_is_missing_is_named(path: Path) -> None:
    missing = path.parent / "nowhere"
    with pytest.raises(FileNotFoundError, match=r"no such folder to write to; make it first: .*nowhere'"):
        check_writable(missing / "a.csv")
    with pytest.raises(FileNotFoundError, match="make it first"), replacing(missing / "a.csv"):
        pass


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Needs POSIX.")
def test_no_file_takes_the_place_of_a_device_or_a_pipe(path: Path) -> None:
    """As root it could: of /dev/null, for the whole machine."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(OSError, match="pipe"):
        check_writable(path)
    with pytest.raises(OSError, match="pipe"), replacing(path):
        pass
    assert path.is_fifo()
