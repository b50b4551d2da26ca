"""Atomic writing of checkpoint files."""

import pickle
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from lightning_fabric.utilities.cloud_io import _is_local_file_protocol

from bnn_lightning.utils.files import replacing, space


class CheckpointWriteError(OSError):
    """A checkpoint could not be written; the previous file of that name is untouched."""


class CheckpointReadError(ValueError):
    """A file is not a checkpoint, or not a whole one."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place, to the disk, and only then put it there.

    A full disk, a kill or a power cut leaves the previous file as it was. Goes to the trainer's `plugins`. Remote paths
    (s3:// and the like) are left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        if storage_options is not None or not _is_local_file_protocol(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            save_atomically(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        try:
            return super().load_checkpoint(path, map_location, weights_only is not False)
        except (RuntimeError, EOFError, LookupError, pickle.UnpicklingError) as error:
            raise CheckpointReadError(
                f"{path} is not a readable checkpoint: {first_line(error)} A file that was cut off, or holds objects "
                "instead of plain containers and tensors, is refused; take another one, such as `last.ckpt`."
            ) from error


def save_atomically(checkpoint: Any, path: Path) -> None:
    """Save with `torch.save`, so that `path` is either the old file or the whole new one.

    Raises:
        CheckpointWriteError: The file could not be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)
    except (OSError, RuntimeError) as error:
        cause = os_error(error)
        if cause is None:
            raise
        raise CheckpointWriteError(
            f"The checkpoint {path} could not be written: {cause.strerror or cause}.{space(path.parent)} "
            f"{'The previous file is unchanged. ' if path.exists() else ''}"
            "Make room or choose another folder, then resume from the last checkpoint."
        ) from error


def os_error(error: BaseException | None) -> OSError | None:
    """Return the error of the operating system behind one of torch's writer, which hides it."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, with a full stop."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if line.endswith(".") else f"{line}."
