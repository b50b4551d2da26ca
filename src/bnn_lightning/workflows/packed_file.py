"""Reading of packed files, and the facts of a network that they hold."""

import subprocess
from pathlib import Path
from typing import Any

import bnn_lightning
from bnn_lightning.data.preparation import Preparation
from bnn_lightning.deploy.format.info import PackedInfo
from bnn_lightning.deploy.runtime.network import LoadedNetwork, load
from bnn_lightning.workflows.config_options import label_of
from bnn_lightning.workflows.errors import UserError, explain
from bnn_lightning.workflows.messages import say
from bnn_lightning.zoo.files import is_name, packed_file
from bnn_lightning.zoo.receipts import ZooError

Plain = dict[str, Any]


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


def packed_info(embedded: Plain, datamodule: Any) -> PackedInfo:
    """Return the facts of a network that its packed file holds.

    Args:
        embedded: Configuration that the network was built from: the sections `model` and `data`, and others.
        datamodule: Knows the size, the classes and the preparation of its images.
    """
    model = embedded["model"]
    config = {key: embedded[key] for key in ("model", "data", "distill", "epochs", "seed") if key in embedded}
    if isinstance(config.get("data"), dict):
        config["data"] = {key: value for key, value in config["data"].items() if key != "root"}  # of a machine
    provenance = {
        "made_by": f"bnn-lightning {bnn_lightning.__version__}",
        **_commit(),
        "config": config,
    }
    names = tuple(datamodule.class_names)
    return PackedInfo(
        name=label_of(model),
        in_channels=datamodule.in_channels,
        image_size=datamodule.image_size,
        class_names=names if len(names) == datamodule.num_classes else (),
        provenance=provenance,
        preparation=_preparation(datamodule),
    )


def _preparation(datamodule: Any) -> Preparation | None:
    preparation = getattr(datamodule, "preparation", None)
    if isinstance(preparation, Preparation):
        return preparation
    say(
        f"pictures: {type(datamodule).__name__} has no `preparation`, so that the file does not say how pictures are "
        "prepared: `bnn predict` will need `resize=`"
    )
    return None


def _commit() -> dict[str, str]:
    """Return the last commit of the package, where it is run from a checkout."""
    command = ["git", "log", "-1", "--format=%H", "--", "."]
    try:
        done = subprocess.run(
            command, cwd=Path(bnn_lightning.__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    commit = done.stdout.strip()
    return {"commit": commit} if done.returncode == 0 and commit else {}
