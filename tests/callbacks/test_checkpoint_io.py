"""A checkpoint file is whole, or it is the one before."""

import os
import resource
from pathlib import Path

import pytest
import torch

from bnn_lightning.callbacks import AtomicCheckpointIO, CheckpointReadError, CheckpointWriteError

OLD = {"weights": torch.arange(4.0)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    AtomicCheckpointIO().save_checkpoint(OLD, tmp_path / "deep" / "last.ckpt")
    return tmp_path / "deep" / "last.ckpt"


def is_old(path: Path) -> bool:
    return torch.equal(AtomicCheckpointIO().load_checkpoint(path)["weights"], OLD["weights"])


def test_replaces_and_leaves_nothing_else(path: Path) -> None:
    assert is_old(path)
    AtomicCheckpointIO().save_checkpoint({"weights": torch.ones(1)}, path)
    assert not is_old(path)
    assert os.listdir(path.parent) == ["last.ckpt"]


def test_write_that_the_system_refuses(path: Path) -> None:
    """A limit on the size of files makes real writes fail, in the middle of the file, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(CheckpointWriteError) as error:
            AtomicCheckpointIO().save_checkpoint({"weights": torch.rand(1_000_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for part in (str(path), "File too large", "The previous file is unchanged", "Make room"):
        assert part in str(error.value)
    assert is_old(path)
    assert os.listdir(path.parent) == ["last.ckpt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write to /dev/full fails with "No space left on device"."""
    plain_open = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, *a: plain_open(Path("/dev/full") if "partial" in self.name else self, *a)
    )
    with pytest.raises(CheckpointWriteError, match=r"No space left on device.*MiB are free.*file is unchanged"):
        AtomicCheckpointIO().save_checkpoint({"weights": torch.rand(1000)}, path)
    monkeypatch.undo()
    assert is_old(path)


def test_error_before_the_rename(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointWriteError, match="Input/output error"):
        AtomicCheckpointIO().save_checkpoint({"weights": torch.rand(1000)}, path)
    assert is_old(path)
    assert os.listdir(path.parent) == ["last.ckpt"]


def test_other_errors_are_not_renamed(path: Path) -> None:
    with pytest.raises(Exception, match="pickle"):
        AtomicCheckpointIO().save_checkpoint({"weights": lambda: None}, path)
    assert is_old(path)
    assert os.listdir(path.parent) == ["last.ckpt"]


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_truncated_file(path: Path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    with pytest.raises(CheckpointReadError, match=r"last\.ckpt is not a readable checkpoint"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_no_checkpoint_at_all(path: Path) -> None:
    path.write_bytes(b"abc" * 10)
    with pytest.raises(CheckpointReadError, match=r"last\.ckpt is not a readable checkpoint"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_code_in_a_file_is_refused(path: Path) -> None:
    torch.save({"weights": Path("somewhere")}, path)
    with pytest.raises(CheckpointReadError, match="instead of plain containers and tensors"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.ckpt"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "nothing.ckpt")
