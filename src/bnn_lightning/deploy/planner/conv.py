"""Lowering of real-valued convolutions, of floats or of images in bytes, and of pooling."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.deploy.ir.graph import ConstantRef, Input, Node, Value
from bnn_lightning.deploy.ir.operations import MOST_FACTORS
from bnn_lightning.deploy.kernels.call import KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.conv2d import Conv2d
from bnn_lightning.deploy.kernels.conv2d_int8 import Conv2dInt8
from bnn_lightning.deploy.kernels.layout import Activation, Pair
from bnn_lightning.deploy.kernels.pool import Pool2d
from bnn_lightning.deploy.kernels.weights import Source
from bnn_lightning.deploy.planner.lowering import IMAGES, Lowering, Places, Size
from bnn_lightning.deploy.planner.match import Chain, constant, pair
from bnn_lightning.deploy.planner.typed_graph import TypedGraph

Array = NDArray[Any]
Affine = tuple[Array, Array] | None


def real_convolution(graph: TypedGraph, number: int) -> Lowering | None:
    """A convolution without groups, of floats or of images in bytes, and what stands around it.

    That is the affine map, PReLU and clamp behind it, and averages over 2x2 or the normalization of images before it.
    """
    if graph.map_shape(Value(number)) is None:
        return None
    return _convolution(Chain.from_value(graph, Value(number)), number, None)


def convolution_and_maxima(graph: TypedGraph, number: int) -> Lowering | None:
    """A convolution, as above, whose result only a max-pooling reads: it is taken while rows are in the cache."""
    source, maxima = graph.nodes[number - 1].inputs[0], _max_pool(graph, number)
    if maxima is None or graph.map_shape(source) is None or not graph.only_use(source):
        return None
    return _convolution(Chain.from_value(graph, source), number, maxima)


def _convolution(chain: Chain, number: int, maxima: Pool2d | None) -> Lowering | None:
    graph, shape = chain.graph, chain.graph.map_shape(chain.at)
    assert shape is not None
    activation, affine = chain.activation(shape[0]), chain.affine(shape[0])
    node = chain.node("conv2d", "byte_conv2d")
    if node is None:
        return None
    layer_of = _float_layer if node.operation == "conv2d" else _byte_layer
    layer = layer_of(chain, node, affine, activation)
    if layer is None or not isinstance(chain.at, Value) or graph.map_shape(chain.at) is None:
        return None
    layer = replace(layer, maxima=maxima)
    planar = chain.at == Value(0) and layer.pool == 1 and layer.reads(graph.images)
    return _lowered(graph, number, IMAGES if planar else chain.at.number, layer) if layer.is_native else None


def _lowered(graph: TypedGraph, number: int, source: int, layer: Conv2d) -> Lowering:
    """Return the call of a convolution of the images, or of a map."""

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        out = graph.map_at(number, places) if number in places else None
        x = graph.map_at(source, places)
        return [layer.call(constants, x, out, work=places.get("work"), node=number)]

    size = layer.scratch_size(graph.images if source == IMAGES else graph.map_like(source))
    return Lowering(number, (source,), build, {"work": Size(size)} if size else {}, emits=True)


def _float_layer(chain: Chain, node: Node, affine: Affine, activation: Activation) -> Conv2d | None:
    graph, channels = chain.graph, activation.channels
    weight, bias = weights(graph, node.inputs[1]), node.input(2)
    if weight is None or node["groups"] != 1 or weight.ndim != 4 or weight.shape[0] != channels:
        return None
    values = None if bias is None else constant(graph, bias, channels)
    if graph.map_shape(node.inputs[0]) is None or (values is None) != (bias is None):
        return None
    stride, pads, dilation = (pair(node[name]) for name in ("stride", "padding", "dilation"))
    chain.at = node.inputs[0]
    pads, beyond = (None if any(pads) else chain.zeros()) or (pads, (0, 0))
    plain = (*weight.shape[2:], *stride, *pads, *beyond) == (1, 1, 1, 1, 0, 0, 0, 0)
    pool = 2 if plain and chain.halving() else 1
    return Conv2d(
        weight,
        activation,
        values,
        stride,
        pads,
        dilation,
        affine=affine,
        normalization=chain.normalization(weight.shape[1]) if pool == 1 else None,
        pool=pool,
        source=source_of(graph, node.inputs[1], weight),
        beyond=beyond,
    )


def _byte_layer(chain: Chain, node: Node, affine: Affine, activation: Activation) -> Conv2dInt8 | None:
    graph, given = chain.graph, [item for item in node.inputs[1:4] if isinstance(item, ConstantRef)]
    if len(given) < 3:
        return None
    weight, scale, around = map(graph.array, given)
    bias = None if node.input(4) is None else constant(graph, node.input(4), len(weight))
    if len(weight) != activation.channels or weight[0].size >= MOST_FACTORS:
        return None
    if (bias is None) != (node.input(4) is None):
        return None
    if affine is not None:
        scale, bias = scale * affine[0], (0 if bias is None else bias * affine[0]) + affine[1]
    stride, pads, dilation = (pair(node[name]) for name in ("stride", "padding", "dilation"))
    chain.at = node.inputs[0]
    windows = (stride, pads, dilation)
    return Conv2dInt8(weight, activation, bias, *windows, scale=scale, around=around, constant=given[0].index)


def pooling(graph: TypedGraph, number: int) -> Lowering | None:
    """Maxima or averages of windows, with the PReLU before them."""
    found = pool_at(graph, number)
    if found is None:
        return None
    layer, source = found

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        out = graph.map_at(number, places) if number in places else None
        return [layer.call(constants, graph.map_at(source, places), out, node=number)]

    return Lowering(number, (source,), build, emits=True)


def pool_at(graph: TypedGraph, number: int) -> tuple[Pool2d, int] | None:
    """Return the pooling that computes a value, and the number of what it reads."""
    node, shape = graph.nodes[number - 1], graph.map_shape(Value(number))
    if shape is None:
        return None
    chain = Chain.from_value(graph, node.inputs[0])
    before = chain.slope(shape[0])
    if not isinstance(chain.at, Value) or graph.map_shape(chain.at) is None:
        return None
    pool_of = _average_pool if node.operation in ("avg_pool2d", "adaptive_avg_pool2d") else _max_pool
    layer = pool_of(graph, number, before)
    return None if layer is None or not layer.is_native else (layer, chain.at.number)


def _max_pool(graph: TypedGraph, number: int, before: Array | None = None) -> Pool2d | None:
    node, shape, windows = graph.nodes[number - 1], graph.map_shape(Value(number)), windows_of(graph, number)
    if shape is None or windows is None or node.operation not in ("max_pool2d", "adaptive_max_pool2d"):
        return None
    ceil = node.operation == "max_pool2d" and node["ceil_mode"]
    return Pool2d(shape[0], *windows, average=False, ceil_mode=ceil, before=before)


def _average_pool(graph: TypedGraph, number: int, before: Array | None) -> Pool2d | None:
    node, shape, windows = graph.nodes[number - 1], graph.map_shape(Value(number)), windows_of(graph, number)
    if shape is None or windows is None:
        return None
    pool = Pool2d(shape[0], *windows, average=True, before=before)
    if node.operation == "adaptive_avg_pool2d":
        return pool
    padded, divisor = node["count_include_pad"], node["divisor_override"] or 0
    return replace(pool, ceil_mode=node["ceil_mode"], count_padding=padded, divisor=divisor)


def windows_of(graph: TypedGraph, number: int) -> tuple[Pair, Pair, Pair] | None:
    """Return kernel size, stride and padding of a pooling; None where its windows are dilated or differ."""
    node = graph.nodes[number - 1]
    if not node.operation.startswith("adaptive"):
        dilated = node.operation == "max_pool2d" and pair(node["dilation"]) != (1, 1)
        return None if dilated else (pair(node["kernel_size"]), pair(node["stride"]), pair(node["padding"]))
    shape = graph.map_shape(node.inputs[0])
    sides = [] if shape is None else zip(shape[1:], node["output_size"], strict=True)
    found = [window for window in (fixed_window(*side) for side in sides) if window is not None]
    if len(found) != 2:
        return None
    (height, down), (width, right) = found
    return (height, width), (down, right), (0, 0)


def fixed_window(size: int, results: int) -> tuple[int, int] | None:
    """Return the window and stride of an adaptive pooling along a dimension; None where its windows differ.

    Example:
        >>> fixed_window(8, 2), fixed_window(7, 3), fixed_window(8, 3)
        ((4, 4), (3, 2), None)
    """
    begins = [place * size // results for place in range(results)]
    ends = [-(-(place + 1) * size // results) for place in range(results)]
    lengths = {end - begin for begin, end in zip(begins, ends, strict=True)}
    strides = {behind - before for before, behind in pairwise(begins)} or {size}
    if len(lengths) != 1 or len(strides) != 1 or 0 in strides:
        return None
    return lengths.pop(), strides.pop()


def weights(graph: TypedGraph, item: Input) -> Array | None:
    """Return a weight in float32, as the graph holds it or times its scale."""
    whole, scale = int8_weights(graph, item)
    if whole is not None and scale is not None:
        product: Array = whole.astype(np.float32) * scale.reshape(-1, *[1] * (whole.ndim - 1))
        return product
    return graph.floats(item) if isinstance(item, ConstantRef) else None


def source_of(graph: TypedGraph, item: Input, weight: Array) -> Source | None:
    """Return what a weight, from `weights` or `int8_weights`, is among the constants of the graph."""
    node, (whole, scale) = graph.node_of(item), int8_weights(graph, item)
    item = item if node is None or whole is None else node.inputs[0]
    dtype = graph.graph.constants[item.index].dtype if isinstance(item, ConstantRef) else ""
    if not isinstance(item, ConstantRef) or (dtype == "bits" and whole is not None):
        return None
    return Source(item.index, dtype, graph.array(item), scale if weight.dtype == np.float32 else None)


def int8_weights(graph: TypedGraph, item: Input) -> tuple[Array | None, Array | None]:
    """Return a weight that the graph holds in int8, and its scale."""
    node = graph.node_of(item)
    if node is None or node.operation != "dequantize":
        return None, None
    parts = [part for part in node.inputs if isinstance(part, ConstantRef)]
    if len(parts) < 2:
        return None, None
    whole, scale = map(graph.array, parts)
    if whole.dtype != np.int8 or scale.dtype != np.float32 or not whole.ndim or scale.size != len(whole):
        return None, None
    return whole, scale.ravel()
