"""Reading a checkpoint file: tensors and plain values, and in which of its entries the tensors of a network lie.

Training scripts wrap what they save. Here a state dict may lie in entries within entries
(`{"model": {"state_dict": ...}}`), its names may begin with those of modules that a network was wrapped in
(`student.module.conv1.weight`), and the arguments of the script, an `argparse.Namespace`, may lie beside it.
"""

import argparse
import errno
import math
import pickle
import re
import struct
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bnn_lightning.utils.text import some

# Entries in which a state dict lies, the first that there is, and modules that a network is wrapped in.
_NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "student", "module")
_WRAPPERS = ("module", "_orig_mod", "model", "net", "network", "student", "backbone")
_DATA_PARALLEL = re.compile(r"^((module|_orig_mod)\.)+")
_DEEPEST = 4
# Teachers, whose tensors stand beside a student's where a whole distillation was saved.
_TEACHERS = re.compile(r"^(\w+_)?teachers?\.")

# First bytes of packed files (`deploy`).
_PACKED = b"BNNPACK"
# Errors of `torch.load`, which depend on where the bytes go wrong (seen by cutting and altering files).
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


def read_published(path: str | Path, names: Collection[str] = ()) -> PublishedFile:
    """Read a published checkpoint into CPU memory, without building a network.

    Args:
        path: The file.
        names: Names of the network's tensors, if they are known: what is named so is not taken out of a wrapper.

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
        reason = why_unusable(value) if isinstance(key, str) else "not named by a string"
        if reason is not None:
            raise ValueError(f"`{path}` is no checkpoint of a network: its entry `{key}` is {reason}.")
    tensors, teachers = _unwrapped(state, frozenset(names))
    if not tensors or len(tensors) + teachers < len(state):
        raise ValueError(
            f"`{path}` is no checkpoint of a network: it has {len(state)} entries, {len(tensors)} tensor names."
        )
    epoch = _number(beside.pop("epoch", None))
    accuracy = next((_number(beside.pop(key)) for key in ("best_prec1", "best_top1_acc") if key in beside), None)
    return PublishedFile(
        path=path,
        tensors=tensors,
        epoch=None if epoch is None else int(epoch),
        accuracy=accuracy,
        ignored=(*beside, *([f"{teachers} tensors of a teacher"] if teachers else [])),
    )


def why_unusable(value: Any) -> str | None:
    """Return the kind of a value of a state dict that is no tensor of plain numbers; None if it is one.

    Example:
        >>> why_unusable(torch.ones(2, dtype=torch.complex64))
        'a tensor of complex numbers'
    """
    if not isinstance(value, Tensor):
        return f"{type(value).__name__}, no tensor"
    if value.is_meta:
        return "a tensor without values (of the meta device)"
    if value.layout != torch.strided:
        return f"a sparse tensor ({value.layout})"
    if value.is_quantized:
        return f"a quantized tensor ({value.dtype})"
    return "a tensor of complex numbers" if value.is_complex() else None


def read_file(path: Path) -> dict[str, Any]:
    """Read a file that `torch.save` wrote, tensors and plain values only, into CPU memory.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a checkpoint, a truncated one, or one with objects of other classes.
        OSError: The file cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"`{path}` is not a file: give the path of a checkpoint.")
    with path.open("rb") as file:
        if file.read(len(_PACKED)) == _PACKED:
            raise ValueError(f"`{path}` is a packed file, which `bnn export` wrote, and no checkpoint: packed={path}")
    try:
        known = argparse.Namespace in torch.serialization.get_safe_globals()
        with nullcontext() if known else torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _damage() as error:
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


def _damage() -> tuple[type[Exception], ...]:
    library = sys.modules.get("safetensors")  # torch.load imports it, for files that are called so
    return _DAMAGE if library is None else (*_DAMAGE, library.SafetensorError)


def _reason(error: Exception) -> str:
    # torch's first lines advise to switch `weights_only` off: keep what says why.
    unsupported = re.search(r"Unsupported \w+: .*?(?=\. | was not|\n|$)", str(error))
    if unsupported is None:
        return f"{type(error).__name__} while reading it"
    return (
        f"{unsupported[0]}; where you trust the file, read it with torch.load(file, weights_only=False), and save its "
        "tensors by themselves"
    )


def _innermost(content: Mapping[str, Any]) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """Return the state dict, and all entries beside it and beside those that it lies in."""
    beside: dict[str, Any] = {}
    for _ in range(_DEEPEST):
        key = next((key for key in _NESTED if _may_hold_tensors(content.get(key))), None)
        if key is None:
            break
        beside |= {name: value for name, value in content.items() if name != key}
        content = content[key]
    return content, beside


def _may_hold_tensors(entry: Any) -> bool:
    return isinstance(entry, Mapping) and any(isinstance(value, Tensor | Mapping) for value in entry.values())


def _unwrapped(state: Mapping[str, Tensor], names: frozenset[str]) -> tuple[dict[str, Tensor], int]:
    """Return the tensors without the wrappers that all names begin with, and how many of teachers were left out."""
    tensors, teachers = {_DATA_PARALLEL.sub("", key): value for key, value in state.items()}, 0
    while tensors and not names & tensors.keys():
        students = {key: value for key, value in tensors.items() if not _TEACHERS.match(key)} or tensors
        teachers += len(tensors) - len(students)
        prefix = next((f"{name}." for name in _WRAPPERS if all(key.startswith(f"{name}.") for key in students)), "")
        if not prefix and len(students) == len(tensors):
            break
        tensors = {_DATA_PARALLEL.sub("", key.removeprefix(prefix)): value for key, value in students.items()}
    return tensors, teachers


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = float(value)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


# Begin of the lines of `differences` on tensors that both have, in unequal shapes.
OTHER_SHAPE = "Of another shape"


def differences(
    wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], *, missing: Sequence[str], unknown: Sequence[str]
) -> tuple[str, ...]:
    """Return the differences between the tensors of a network and those of a file, a line a kind.

    Args:
        wanted: Tensors of the network.
        given: Tensors of the file, by their names in the network.
        missing: Names that the file lacks.
        unknown: Names that the network lacks.
    """
    shapes = [
        f"{name} (file {tuple(given[name].shape)}, network {tuple(tensor.shape)})"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    kinds = (("Missing in the file", missing), ("Unknown to the network", unknown), (OTHER_SHAPE, shapes))
    return tuple(f"{kind}: {some(names)}." for kind, names in kinds if names)
