"""The stem of a file on bytes: int8 weights for images as they come, and whole sums."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bnn_lightning.deploy.format.container import Array, read_container, write_container
from bnn_lightning.deploy.frontend.capture import Lowered, LoweringError
from bnn_lightning.deploy.ir.graph import Argument, Program, Step, Stored, Value
from bnn_lightning.deploy.kernels.conv2d_int8 import MOST_FACTORS


def round_stem(lowered: Lowered) -> Lowered:
    """Let the convolution that reads the images take them in bytes, with weights in int8.

    The normalisation of the images is folded into it: weights are divided by the deviations, then become the nearest of
    255 multiples of their output channel's scale, which is the largest magnitude / 127; the means are what pixels are
    compared with, and what lies around an image, so that the padding stays zero after the normalisation.

    Args:
        lowered: From `lower`.

    Raises:
        LoweringError: The images do not go into one convolution without groups, after a normalisation or none.

    Example:
        >>> tensors = {"w": ("f32", np.full((1, 1, 1, 1), 0.5, np.float32))}
        >>> rounded = round_stem(Lowered(Program((Step("conv2d", (Value(0), Stored(0))),)), tensors))
        >>> rounded.program.steps[0].operation, rounded.tensors["w.u8"][1].item()
        ('byte_conv2d', 127)
    """
    stem = _stem(lowered.program.steps)
    _, weight, bias, stride, padding, dilation, groups = [*stem.conv.arguments, *[None] * 5][:7]
    values = _floats(lowered, weight)
    plain = values is not None and values.ndim == 4 and values[0].size < MOST_FACTORS and groups in (None, 1)
    if not isinstance(weight, Stored) or values is None or not plain:
        raise LoweringError("`stem`=u8 takes a convolution of float32 weights, without groups. Take stem=fp32.")
    if isinstance(padding, str):
        raise LoweringError(f"`stem`=u8 takes a padding in numbers, not {padding!r}. Take stem=fp32.")
    mean, std = (_per_channel(lowered, item, values.shape[1]) for item in (stem.mean, stem.std))
    name = list(lowered.tensors)[weight.index]
    tensors = _rounded(name, values, 0 * std if stem.mean is None else mean, std)
    moves: list[Argument] = [stride or [1, 1], padding or [0, 0], dilation or [1, 1]]
    return _rebuilt(lowered, stem, tensors, bias, moves)


def write_byte_stem(source: str | Path, out: str | Path) -> None:
    """Write a packed file once more, with its stem on bytes.

    Args:
        source: A packed file with a stem in float32.
        out: The file to write.

    Raises:
        LoweringError: See `round_stem`.
        PackedFileError: The file is damaged.
    """
    container = read_container(source)
    program = Program.from_plain(container.header["program"], num_tensors=len(container.entries))
    entries = enumerate(container.entries)
    lowered = Lowered(program, {entry.name: (entry.dtype, container.array(index)) for index, entry in entries})
    rounded = round_stem(lowered)
    header = {**container.header, "program": rounded.program.plain(), "stem": "u8"}
    write_container(out, header, rounded.tensors)


@dataclass(frozen=True)
class _Stem:
    """The convolution that reads the images, its place among the steps, and the normalisation before it."""

    conv: Step
    place: int
    before: tuple[int, ...]  # places
    mean: Argument
    std: Argument


def _stem(steps: tuple[Step, ...]) -> _Stem:
    found: dict[str, Argument] = {}
    before: list[int] = []
    value = 0
    while True:
        users = [place for place, step in enumerate(steps) if value in step.values()]
        step = steps[users[0]] if users else None
        if step is None or len(users) > 1 or step.values() != [value] or step.arguments[0] != Value(value):
            break
        if step.operation == "conv2d":
            return _Stem(step, users[0], tuple(before), found.get("sub.Tensor"), found.get("div.Tensor"))
        if step.operation not in ("sub.Tensor", "div.Tensor") or step.operation in found or "div.Tensor" in found:
            break
        found[step.operation] = step.arguments[1]
        before.append(users[0])
        value = users[0] + 1
    readers = ", ".join(f"`{steps[place].operation}`" for place in users) or "nothing"
    raise LoweringError(
        "`stem`=u8 takes a network whose images go, normalised or not, into one convolution of real weights; here "
        f"{readers} reads them. Take stem=fp32."
    )


def _floats(lowered: Lowered, argument: Argument) -> Array | None:
    if not isinstance(argument, Stored):
        return None
    dtype, values = list(lowered.tensors.values())[argument.index]
    return values if dtype == "f32" and values.size and bool(np.isfinite(values).all()) else None


def _per_channel(lowered: Lowered, argument: Argument, channels: int) -> Array:
    """Return a number for each channel of the images, (channels,) in float64; 1 where there is none."""
    if argument is None:
        return np.ones(channels)
    values = _floats(lowered, argument)
    if values is None or values.size not in (1, channels) or math.prod(values.shape[-2:]) != 1:
        raise LoweringError("`stem`=u8 takes images that are normalised with a number for each channel.")
    return np.broadcast_to(values.reshape(-1), channels).astype(np.float64)


def _rounded(name: str, weight: Array, mean: Array, std: Array) -> dict[str, tuple[str, Array]]:
    if not std.all():
        raise LoweringError("`stem`=u8: a deviation of the images is 0.")
    folded = weight.astype(np.float64) / (255 * std.reshape(-1, 1, 1))
    scale = np.abs(folded.reshape(len(folded), -1)).max(1) / 127
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    whole = np.clip(np.rint(folded / scale.reshape(-1, 1, 1, 1)), -127, 127).astype(np.int8)
    return {
        f"{name}.u8": ("i8", whole),
        f"{name}.scale": ("f32", scale),
        f"{name}.around": ("f32", (255 * mean).astype(np.float32)),
    }


def _rebuilt(
    lowered: Lowered, stem: _Stem, tensors: dict[str, tuple[str, Array]], bias: Argument, moves: list[Argument]
) -> Lowered:
    """Put the new stem into the program; the steps before it, and tensors that nothing reads any more, are left out."""
    table, places = list(lowered.tensors.items()), {name: place for place, name in enumerate(tensors)}
    tensors, numbers = dict(tensors), {0: 0}
    steps: list[Step] = []

    def moved(argument: Argument) -> Argument:
        match argument:
            case Value(number):
                return Value(numbers[number])
            case Stored(index):
                name, stored = table[index]
                tensors.setdefault(name, stored)
                return Stored(places.setdefault(name, len(places)))
            case list():
                return [moved(item) for item in argument]
        return argument

    for place, step in enumerate(lowered.program.steps):
        if place == stem.place:
            steps.append(Step("byte_conv2d", (Value(0), Stored(0), Stored(1), Stored(2), moved(bias), *moves)))
        elif place not in stem.before:
            steps.append(Step(step.operation, tuple(moved(item) for item in step.arguments)))
        numbers[place + 1] = len(steps)
    return Lowered(Program(tuple(steps)), tensors)
