"""Lowering of products of rows: linear layers, and the gates of squeeze-and-excite."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.deploy.ir.graph import Input, Value
from bnn_lightning.deploy.kernels.call import KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.linear import Linear
from bnn_lightning.deploy.kernels.squeeze_excite import ChannelGate, Dense
from bnn_lightning.deploy.planner.conv import int8_weights, source_of, weights
from bnn_lightning.deploy.planner.lowering import Lowering, Places, Size
from bnn_lightning.deploy.planner.match import Chain, constant
from bnn_lightning.deploy.planner.typed_graph import TypedGraph

Array = NDArray[Any]


@dataclass(frozen=True)
class LinearRows:
    """A linear layer of rows.

    Attributes:
        layer: Linear layer; the affine map before it lies in its weight and bias.
        source: Number of the value that it reads.
    """

    layer: Linear
    source: int


def linear_of(graph: TypedGraph, number: int) -> LinearRows | None:
    """Read a linear layer, the affine map before it, and the PReLU and clamp behind it; None: it is something else."""
    shape, chain = graph.map_shape(Value(number)), Chain.from_value(graph, Value(number))
    activation = None if shape is None else chain.activation(shape[0])
    node = chain.node("linear")
    if node is None:
        return None
    weight, item = weights(graph, node.inputs[1]), node.input(2)
    if weight is None or weight.ndim != 2 or not weight.size or not isinstance(node.inputs[0], Value):
        return None
    if activation is not None and activation.channels != len(weight):
        return None
    bias = None if item is None else constant(graph, item, len(weight))
    if (bias is None) != (item is None):
        return None
    chain.at = node.inputs[0]
    affine, (whole, outputs) = chain.affine(weight.shape[1]), int8_weights(graph, node.inputs[1])
    of = source_of(graph, node.inputs[1], weight if whole is None else whole)
    if affine is not None:
        scale, shift = affine
        bias = (weight.astype(np.float64) * shift).sum(1) + (0 if bias is None else bias)
        of = source_of(graph, node.inputs[1], weight)
        of = None if of is None else replace(of, factors=scale.astype(np.float64))
        weight, whole, outputs = (weight.astype(np.float64) * scale).astype(np.float32), None, None
    if not isinstance(chain.at, Value) or graph.map_shape(chain.at) != (weight.shape[1], 1, 1):
        return None
    return LinearRows(Linear(weight if whole is None else whole, bias, outputs, activation, of), chain.at.number)


def linear(graph: TypedGraph, number: int) -> Lowering | None:
    """A linear layer of rows in one call."""
    found = linear_of(graph, number)
    if found is None:
        return None
    layer, source = found.layer, found.source

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        return [layer.call(constants, places[source], places[number], node=number)]

    return Lowering(number, (source,), build)


@dataclass(frozen=True)
class Gate:
    """Squeeze-and-excite behind averages.

    Attributes:
        layer: Linear layer.
        own: Number of the averages of its map.
        other: Number of those of the map that is blended with it; None is none.
    """

    layer: ChannelGate
    own: int
    other: int | None

    @property
    def reads(self) -> tuple[int, ...]:
        """Numbers of the values that it reads."""
        return (self.own,) if self.other is None else (self.own, self.other)


def gate_of(graph: TypedGraph, number: int) -> Gate | None:
    """Read the gate that ends with a value, of one map or of a blend of two; None: it is something else."""
    chain = Chain.from_value(graph, Value(number))
    excite = _pointwise(chain, "sigmoid")
    squeeze = None if excite is None else _pointwise(chain, "relu")
    if excite is None or squeeze is None:
        return None
    channels = squeeze.weight.shape[1]
    own, other, mix = _blend(chain, channels)
    averages = [graph.map_shape(Value(item)) for item in (own, other) if item is not None]
    if own is None or any(shape != (channels, 1, 1) for shape in averages):
        return None
    return Gate(ChannelGate(squeeze, excite, mix), own, other)


def gate(graph: TypedGraph, number: int) -> Lowering | None:
    """Squeeze-and-excite in one call."""
    found = gate_of(graph, number)
    if found is None:
        return None
    layer, own, other = found.layer, found.own, found.other

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        second = None if other is None else places[other]
        return [layer.call(constants, places[own], second, places["work"], places[number], node=number)]

    return Lowering(number, found.reads, build, scratch={"work": Size(0, layer.work_size)})


def _pointwise(chain: Chain, behind: str) -> Dense | None:
    """Step over an activation and the plain 1x1 convolution before it: its weight, bias, and the scale of int8."""
    graph, node = chain.graph, chain.node(behind)
    chain.at = chain.at if node is None else node.inputs[0]
    conv = None if node is None else chain.node("conv2d")
    weight = None if conv is None else weights(graph, conv.inputs[1])
    if conv is None or weight is None or weight.ndim != 4 or weight.shape[2:] != (1, 1):
        return None
    moves = [list(conv[name]) for name in ("stride", "padding", "dilation")]
    if moves != [[1, 1], [0, 0], [1, 1]] or conv["groups"] != 1:
        return None
    chain.at = conv.inputs[0]
    whole, scale = int8_weights(graph, conv.inputs[1])
    item = conv.input(2)
    bias = None if item is None else constant(graph, item, len(weight))
    if (bias is None) != (item is None):
        return None
    weight = weight if whole is None else whole
    return Dense(weight.reshape(len(weight), -1), bias, scale, source_of(graph, conv.inputs[1], weight))


def _blend(chain: Chain, channels: int) -> tuple[int | None, int | None, Array | None]:
    """Read `own + mix (other - own)`, or a single value: the numbers of own and other, and mix."""
    graph = chain.graph
    node = chain.node("mean")  # of averages once more: the identity
    if node is not None and _is_average(graph, node.inputs[0]):
        chain.over(node.inputs[0])
    node = chain.node("add")
    if node is None or len(node.inputs) != 2:
        return (_first_like(graph, chain.at) if _is_average(graph, chain.at) else None), None, None
    own, product = node.inputs
    inside = Chain(graph, chain.top, product)
    node = inside.node("mul")
    for factor, values in () if node is None or len(node.inputs) != 2 else (node.inputs, node.inputs[::-1]):
        inside.at = factor
        difference, mix = inside.node("sub"), constant(graph, values, channels, elementwise=True)
        if difference is None or mix is None or len(difference.inputs) != 2 or difference.inputs[1] != own:
            continue
        other = difference.inputs[0]
        if _is_average(graph, own) and _is_average(graph, other):
            return _first_like(graph, own), _first_like(graph, other), mix
    return None, None, None


def _is_average(graph: TypedGraph, item: Input) -> bool:
    shape = graph.map_shape(item)
    return shape is not None and shape[1:] == (1, 1)


def _first_like(graph: TypedGraph, item: Input) -> int:
    """Return the number of the first value that is computed in the same way."""
    assert isinstance(item, Value)
    if item.number == 0:
        return 0
    node = graph.nodes[item.number - 1]
    alike = (number for number, other in enumerate(graph.nodes, 1) if other.inputs == node.inputs and other == node)
    return next(alike)
