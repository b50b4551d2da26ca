"""File of a landscape: points as they are measured, and the settings of the measurement."""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnn_lightning.analysis.landscape import Landscape
from bnn_lightning.analysis.loss_grid import Measured
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.out_file import written

Identity = dict[str, Any]


class LandscapeFile:
    """Points of one landscape on disk; after each point the file is whole, so that a killed run loses none.

    Args:
        path: Ends in .npz; read where it exists.
        identity: Facts that the points depend on, plain values: a file with others is refused.
        landscape: With no points: its name, steps and number of directions.

    Raises:
        UserError: The file is damaged, or was measured with something else.
    """

    def __init__(self, path: Path, identity: Identity, landscape: Landscape) -> None:
        self.path, self.identity, self.landscape = path, identity, landscape
        self.extras: dict[str, float] = {}
        if path.exists():
            self.landscape, found, self.extras = read_landscape(path)
            _check_identity(path, found, identity)

    @property
    def missing(self) -> list[int]:
        """The numbers of the points that were not measured yet."""
        return np.flatnonzero(np.isnan(self.landscape.accuracies.ravel())).tolist()

    def add(self, index: int, measured: Measured) -> None:
        """Store a point."""
        tables = (self.landscape.losses, self.landscape.accuracies, self.landscape.flipped)
        for table, value in zip(tables, measured, strict=True):
            table.flat[index] = value
        self.write()

    def write(self) -> None:
        """Write the file atomically: afterwards the old one or the new one is there."""
        facts = {"identity": json.dumps(self.identity), "extras": json.dumps(self.extras)}
        with written(self.path) as temporary:
            np.savez(temporary, **(vars(self.landscape) | facts))


def read_landscape(path: Path) -> tuple[Landscape, Identity, dict[str, float]]:
    """Read a file that `bnn visualize landscape=...` wrote.

    Returns:
        The landscape, what it was measured with, and the numbers that stand beside its points.

    Raises:
        UserError: It cannot be read as such.
    """
    try:
        with np.load(path) as file:
            tables = [file[key] for key in ("steps", "losses", "accuracies", "flipped")]
            identity, extras = (json.loads(str(file[key])) for key in ("identity", "extras"))
            return Landscape(str(file["name"]), *tables), identity, extras
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"`{path}` is no landscape of ours, or is damaged: {error}") from error


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a hash of tensors: the same for the same names, shapes, types and values."""
    found = hashlib.sha256()
    for name, tensor in tensors.items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _check_identity(path: Path, found: Identity, wanted: Identity) -> None:
    different = [key for key in wanted if found.get(key) != wanted[key]]
    if different:
        shown = "; ".join(f"{key}: {_short(found.get(key))} there, {_short(wanted[key])} now" for key in different)
        raise UserError(
            f"`{path}` was measured with something else ({shown}). Name another place (out=...), remove the file, or "
            f"draw it as it is (landscape={path})."
        )


def _short(value: Any) -> str:
    return f"{value[:8]}..." if isinstance(value, str) and len(value) == 64 else str(value)
