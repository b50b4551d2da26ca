"""Packed files as verbs read them."""

from pathlib import Path

from bnn_lightning.deploy.runtime.network import LoadedNetwork, load
from bnn_lightning.workflows.errors import UserError, explain
from bnn_lightning.zoo.files import is_name, packed_file
from bnn_lightning.zoo.receipts import ZooError


def read_packed(path: str | Path) -> LoadedNetwork:
    """Load a packed file.

    Raises:
        UserError: There is none, it is damaged, or `BNN_KERNEL` names no kernel of this machine.
    """
    try:
        return load(path)
    except FileNotFoundError as error:
        raise UserError(f"`packed`: there is no file {path}; `bnn export ckpt=<run> out={path}` writes one.") from error
    except (ValueError, OSError) as error:
        raise UserError(explain(error)) from error


def packed_path(packed: str | Path) -> Path:
    """Return the packed file that a path or a name of the zoo means.

    Raises:
        UserError: The zoo has no such network, or its file could not be had.
    """
    try:
        return packed_file(packed) if is_name(packed) else Path(packed)
    except ZooError as error:
        raise UserError(str(error)) from error
