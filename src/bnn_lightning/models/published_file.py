"""Reading a checkpoint file: tensors and plain values, and in which of its entries the tensors of a network lie.

Training scripts wrap what they save. Here a state dict may lie in entries within entries
(`{"model": {"state_dict": ...}}`), its names may begin with those of modules that a network was wrapped in
(`student.module.conv1.weight`), and the arguments of the script, an `argparse.Namespace`, may lie beside it.
"""

import argparse
import errno
import pickle
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Entries in which a state dict lies, the first that there is, and modules that a network is wrapped in.
_NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "student", "module")
_WRAPPERS = ("module", "_orig_mod", "model", "net", "network", "student", "backbone")
_DATA_PARALLEL = re.compile(r"^((module|_orig_mod)\.)+")
# Whose tensors stand beside a student's where a whole distillation was saved.
_TEACHERS = re.compile(r"^(\w+_)?teachers?\.")

# What `torch.load` raises depends on where the bytes go wrong (seen by cutting and altering files).
_DAMAGE = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)


@dataclass(frozen=True)
class PublishedFile:
    """A published checkpoint as read: tensors by their names in the network, and what stands beside them."""

    path: Path
    tensors: dict[str, Tensor]
    epoch: int | None
    accuracy: float | None
    ignored: tuple[str, ...]


def read_published(path: str | Path) -> PublishedFile:
    """Read a published checkpoint into CPU memory, without building a network.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a checkpoint, a truncated one, or one of Lightning's.
    """
    path = Path(path)
    content = read_file(path)
    if "pytorch-lightning_version" in content:
        raise ValueError(
            f"`{path}` is a checkpoint of Lightning, not a published one: `bnn_lightning.load_task` reads it."
        )
    state, beside = _innermost(content)
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"`{path}` is no checkpoint of a network: its entry `{key}` is {type(value).__name__}, no tensor."
            )
    students = {key: value for key, value in state.items() if not _TEACHERS.match(_DATA_PARALLEL.sub("", key))}
    tensors = _unwrapped(students)
    if not tensors or len(tensors) < len(students):
        raise ValueError(
            f"`{path}` is no checkpoint of a network: it has {len(state)} entries, {len(tensors)} tensor names."
        )
    teachers = () if len(students) == len(state) else (f"{len(state) - len(students)} tensors of a teacher",)
    epoch = _number(beside.pop("epoch", None))
    accuracy = next((_number(beside.pop(key)) for key in ("best_prec1", "best_top1_acc") if key in beside), None)
    return PublishedFile(
        path=path,
        tensors=tensors,
        epoch=None if epoch is None else int(epoch),
        accuracy=accuracy,
        ignored=(*beside, *teachers),
    )


def read_file(path: Path) -> dict[str, Any]:
    """Read a file that `torch.save` wrote, tensors and plain values only, into CPU memory.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a checkpoint, a truncated one, or one with objects of other classes.
        OSError: The file cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"`{path}` is not a file: give the path of a checkpoint.")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise ValueError(
            f"`{path}` ({path.stat().st_size:,} bytes) is not a checkpoint, is truncated, or holds more than tensors "
            f"and plain values ({_reason(error)})."
        ) from error
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise ValueError(
            f"`{path}` is no checkpoint of a network: it holds {type(content).__name__}, not named tensors."
        )
    return dict(content)


def _reason(error: Exception) -> str:
    # torch's first lines advise to switch `weights_only` off: keep what says why.
    unsupported = re.search(r"Unsupported \w+: .*?(?=\. | was not|\n|$)", str(error))
    if unsupported is None:
        return f"{type(error).__name__} while reading it"
    return (
        f"{unsupported[0]}; where you trust the file, save its state dict alone: "
        "torch.save(torch.load(file, weights_only=False)['state_dict'], new_file)"
    )


def _innermost(content: Mapping[str, Any]) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """Return the state dict, and all entries beside it and beside those that it lies in."""
    beside: dict[str, Any] = {}
    while (key := next((key for key in _NESTED if isinstance(content.get(key), Mapping)), None)) is not None:
        beside |= {name: value for name, value in content.items() if name != key}
        content = content[key]
    return content, beside


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without what all their names begin with, if that is a wrapper's name."""
    tensors = {_DATA_PARALLEL.sub("", key): value for key, value in state.items()}
    while (prefix := _common_wrapper(tensors)) is not None:
        tensors = {_DATA_PARALLEL.sub("", key.removeprefix(prefix)): value for key, value in tensors.items()}
    return tensors


def _common_wrapper(tensors: Mapping[str, Tensor]) -> str | None:
    first = {key.partition(".")[0] for key in tensors}
    return f"{first.pop()}." if len(first) == 1 and first <= set(_WRAPPERS) else None


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    return float(value) if isinstance(value, int | float) else None
