"""The stem of a file on bytes: int8 weights for images as they come, and whole sums."""

import math
from dataclasses import dataclass

import numpy as np

from bnn_lightning.deploy.ir.graph import Array, Constant, ConstantRef, Graph, GraphError, Input, Value
from bnn_lightning.deploy.ir.operations import MOST_FACTORS
from bnn_lightning.deploy.ir.rewrite import Rewriter


def quantize_stem(graph: Graph) -> Graph:
    """Let the convolution that reads the images take them in bytes, with weights in int8.

    The normalization of the images is folded into it: weights are divided by the deviations, then become the nearest of
    255 multiples of their output channel's scale, which is the largest magnitude / 127; the means are what pixels are
    compared with, and what lies around an image, so that the padding stays zero after the normalization.

    Raises:
        GraphError: The images do not go into one convolution without groups, after a normalization or none.

    Example:
        >>> from bnn_lightning.deploy.ir.graph import Constant, Node
        >>> weight = Constant.of("w", "f32", np.full((1, 1, 1, 1), 0.5, np.float32))
        >>> graph = quantize_stem(Graph((Node("conv2d", (Value(0), ConstantRef(0))),), (weight,)))
        >>> graph.nodes[0].operation, graph.constants[0].name, graph.constants[0].array.item()
        ('byte_conv2d', 'w.u8', 127)
    """
    stem = _stem(graph)
    node = graph.nodes[stem.number - 1]
    weight = _floats(graph, node.inputs[1])
    if weight is None or weight.ndim != 4 or weight[0].size >= MOST_FACTORS or node["groups"] != 1:
        raise GraphError("`stem`=u8 takes a convolution of float32 weights, without groups. Take stem=fp32.")
    mean, std = (_per_channel(graph, item, weight.shape[1]) for item in (stem.mean, stem.std))
    assert isinstance(node.inputs[1], ConstantRef)
    name = graph.constants[node.inputs[1].index].name
    rewriter = Rewriter(graph)
    for number, other in enumerate(graph.nodes, start=1):
        if number == stem.number:
            constants = _rounded(name, weight, 0 * std if stem.mean is None else mean, std)
            inputs: list[Input] = [Value(0), *(rewriter.constant(constant) for constant in constants)]
            inputs += [rewriter.moved(item) for item in node.inputs[2:]]
            rewriter.values[number] = rewriter.add("byte_conv2d", inputs, node.attributes, node.name)
        else:
            # The normalization before the stem, which only the stem reads, falls out.
            rewriter.values[number] = Value(0) if number in stem.before else rewriter.copy(other)
    return rewriter.result()


@dataclass(frozen=True)
class _Stem:
    """The number of the convolution that reads the images, and the normalization before it."""

    number: int
    before: tuple[int, ...]
    mean: Input | None
    std: Input | None


def _stem(graph: Graph) -> _Stem:
    found: dict[str, Input] = {}
    before: list[int] = []
    users, value = graph.users(), 0
    while True:
        places = users.get(value, [])
        node = graph.nodes[places[0]] if places else None
        if node is None or len(places) > 1 or node.values() != [value] or node.inputs[0] != Value(value):
            break
        number, operand = places[0] + 1, node.input(1)
        if node.operation == "conv2d":
            return _Stem(number, tuple(before), found.get("sub"), found.get("div"))
        known = node.operation in ("sub", "div") and operand is not None
        if not known or operand is None or node.operation in found or "div" in found:
            break
        found[node.operation] = operand
        before.append(number)
        value = number
    readers = ", ".join(f"`{graph.nodes[place].operation}`" for place in places) or "nothing"
    raise GraphError(
        "`stem`=u8 takes a network whose images go, normalized or not, into one convolution of real weights; here "
        f"{readers} reads them. Take stem=fp32."
    )


def _floats(graph: Graph, item: Input) -> Array | None:
    if not isinstance(item, ConstantRef):
        return None
    constant = graph.constants[item.index]
    values = constant.array
    return values if constant.dtype == "f32" and values.size and bool(np.isfinite(values).all()) else None


def _per_channel(graph: Graph, item: Input | None, channels: int) -> Array:
    """Return a number for each channel of the images, (channels,) in float64; 1 where there is none."""
    if item is None:
        return np.ones(channels)
    values = _floats(graph, item)
    if values is None or values.size not in (1, channels) or math.prod(values.shape[-2:]) != 1:
        raise GraphError("`stem`=u8 takes images that are normalized with a number for each channel.")
    return np.broadcast_to(values.reshape(-1), channels).astype(np.float64)


def _rounded(name: str, weight: Array, mean: Array, std: Array) -> list[Constant]:
    if not std.all():
        raise GraphError("`stem`=u8: a deviation of the images is 0.")
    folded = weight.astype(np.float64) / (255 * std.reshape(-1, 1, 1))
    scale = np.abs(folded.reshape(len(folded), -1)).max(1) / 127
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    whole = np.clip(np.rint(folded / scale.reshape(-1, 1, 1, 1)), -127, 127).astype(np.int8)
    around = (255 * mean).astype(np.float32)
    return [
        Constant.of(f"{name}.u8", "i8", whole),
        Constant.of(f"{name}.scale", "f32", scale),
        Constant.of(f"{name}.around", "f32", around),
    ]
