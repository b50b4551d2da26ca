"""Real-valued weights in int8: smaller files, and answers that differ a little."""

import numpy as np

from bnn_lightning.deploy.format.container import Array
from bnn_lightning.deploy.frontend.capture import Lowered
from bnn_lightning.deploy.ir.graph import Argument, Program, Step, Stored, Value

# The operations whose second argument is a weight, (out_channels, ...).
_WEIGHTED = ("conv2d", "linear")


def round_rest(lowered: Lowered) -> Lowered:
    """Store the weights of real convolutions and linear layers in int8, with a scale of each output channel.

    A weight becomes the nearest of 255 multiples of its channel's scale, which is its largest magnitude / 127. All else
    stays as it is: biases, batch norms, slopes, and what is computed, which is in float32.

    Args:
        lowered: From `lower`.

    Example:
        >>> tensors = {"w": ("f32", np.array([[1.0, -0.5]], np.float32))}
        >>> rounded = round_rest(Lowered(Program((Step("linear", (Value(0), Stored(0))),)), tensors))
        >>> rounded.tensors["w"][1].tolist(), rounded.program.plain()
        ([[127, -64]], [['dequantize', {'t': 0}, {'t': 1}], ['linear', {'v': 0}, {'v': 1}]])
    """
    names = list(lowered.tensors)
    weights = sorted({index for step in lowered.program.steps if (index := _weight(step, lowered, names)) is not None})
    tensors: dict[str, tuple[str, Array]] = {}
    places: dict[int, int] = {}
    for index, (name, (dtype, values)) in enumerate(lowered.tensors.items()):
        places[index] = len(tensors)
        if index in weights:
            scale = np.abs(values.reshape(len(values), -1)).max(1) / np.float32(127)
            scale = np.where(scale > 0, scale, 1).astype(np.float32)
            rounded = np.rint(values / scale.reshape(-1, *[1] * (values.ndim - 1))).astype(np.int8)
            tensors[name], tensors[f"{name}.scale"] = ("i8", rounded), ("f32", scale)
        else:
            tensors[name] = (dtype, values)
    first = [Step("dequantize", (Stored(places[index]), Stored(places[index] + 1))) for index in weights]
    made = {index: Value(number) for number, index in enumerate(weights, start=1)}

    def moved(argument: Argument) -> Argument:
        match argument:
            case Value(number):
                return Value(number + len(first)) if number else argument
            case Stored(index):
                return made.get(index, Stored(places[index]))
            case list():
                return [moved(item) for item in argument]
        return argument

    rest = [Step(step.operation, tuple(moved(item) for item in step.arguments)) for step in lowered.program.steps]
    return Lowered(Program((*first, *rest)), tensors)


def _weight(step: Step, lowered: Lowered, names: list[str]) -> int | None:
    """Return the place of a step's real-valued weight."""
    if step.operation not in _WEIGHTED or not isinstance(step.arguments[1], Stored):
        return None
    index = step.arguments[1].index
    dtype, values = lowered.tensors[names[index]]
    return index if dtype == "f32" and bool(np.isfinite(values).all()) and values.size else None
