"""Facts that a packed file holds of its network: classes, preparation of pictures, provenance."""

import subprocess
from pathlib import Path
from typing import Any

import bnn_lightning
from bnn_lightning.data.preparation import Preparation
from bnn_lightning.deploy.format.info import PackedInfo
from bnn_lightning.workflows.messages import say

Plain = dict[str, Any]


def packed_info(embedded: Plain, datamodule: Any) -> PackedInfo:
    """Return what a packed file says of its network.

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
        name=str(model.get("name", model.get("_target_"))),
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
