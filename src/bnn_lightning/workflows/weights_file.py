"""Weights of a trained task as a safetensors file: tensors, and in its metadata the configuration that made them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from bnn_lightning.callbacks.embed_config import CLASSES_KEY, CONFIG_KEY

_METADATA = "bnn_lightning"
# Entries of a checkpoint beside its tensors.
_ENTRIES = ("epoch", "global_step", CONFIG_KEY, CLASSES_KEY)
# Sections and keys of the configuration that a network is built, scored and packed from. The others say where and how
# it was trained on a machine.
_KEPT = ("name", "seed", "epochs", "model", "data", "task", "distill", "optimizer", "param_groups", "lr_scheduler")


def write_weights(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Write the tensors and the configuration of a checkpoint of ours, without paths of the machine it was made on.

    Args:
        checkpoint: As `read_checkpoint` returns it.
        path: The file.
    """
    config = {key: checkpoint[CONFIG_KEY][key] for key in _KEPT if key in checkpoint[CONFIG_KEY]}
    config["data"] = {key: value for key, value in config["data"].items() if key != "root"}
    entries = {key: checkpoint[key] for key in _ENTRIES if key in checkpoint} | {CONFIG_KEY: config}
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint["state_dict"].items()}
    save_file(tensors, path, metadata={_METADATA: json.dumps(entries)})


def is_weights_file(path: Path) -> bool:
    """Whether a file is called as a safetensors file and holds our configuration.

    Raises:
        ValueError: It is no safetensors file, or is truncated.
    """
    return path.suffix == ".safetensors" and _METADATA in _metadata(path)


def read_weights(path: Path) -> dict[str, Any]:
    """Return the content of a file of `write_weights`, in the form of a checkpoint of ours.

    Raises:
        ValueError: It is damaged.
    """
    try:
        entries = json.loads(_metadata(path)[_METADATA])
        state = load_file(path)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"`{path}` is damaged: {error}.") from error
    if not isinstance(entries, dict):
        raise ValueError(f"`{path}` is damaged: its metadata are no table.")
    return {**entries, "state_dict": state}


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"`{path}` ({path.stat().st_size:,} bytes) is no safetensors file, or is truncated: {error}."
        ) from error
