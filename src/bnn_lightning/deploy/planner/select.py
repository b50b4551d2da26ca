"""Selection rules: which kernels compute a value of a graph, and with what."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from bnn_lightning.deploy.ir.graph import ConstantRef, Graph, Input, Value
from bnn_lightning.deploy.ir.operations import EPILOGUE
from bnn_lightning.deploy.ir.types import Images, Type
from bnn_lightning.deploy.kernels.binary_conv import SignConv2d, pack_signs
from bnn_lightning.deploy.kernels.call import KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.layout import BLOCK, Map
from bnn_lightning.deploy.planner.arithmetic import arithmetic
from bnn_lightning.deploy.planner.conv import convolution_and_maxima, pooling, real_convolution
from bnn_lightning.deploy.planner.elementwise import combination, concatenation
from bnn_lightning.deploy.planner.functions import classes, function
from bnn_lightning.deploy.planner.groups import grouped_convolution
from bnn_lightning.deploy.planner.images import images, normalization
from bnn_lightning.deploy.planner.layer_norm import layer_norm
from bnn_lightning.deploy.planner.linear import gate, linear
from bnn_lightning.deploy.planner.lowering import IMAGES, Lowering, Places, Signs
from bnn_lightning.deploy.planner.moves import copying
from bnn_lightning.deploy.planner.pad import padding
from bnn_lightning.deploy.planner.reduce import over_map, reduction
from bnn_lightning.deploy.planner.typed_graph import TypedGraph

Rule = Callable[[TypedGraph, int], Lowering | None]


def lower(graph: TypedGraph, number: int) -> Lowering | None:
    """Return what computes a value natively; None: it stays with torch.

    Args:
        graph: The graph.
        number: Number of the value: that of its node, counted from 1; 0 is the images as a map of floats.
    """
    if number == 0:
        return images(graph)
    for rule in RULES.get(graph.nodes[number - 1].operation, ()):
        lowering = rule(graph, number)
        if lowering is not None:
            return lowering
    return None


def name_of(graph: Graph, types: Sequence[Type], number: int) -> str:
    """Return the operation of a value that stays with torch, and the reason where it is one of its sizes."""
    node = graph.nodes[number - 1]
    if not node.operation.startswith("adaptive"):
        return node.operation
    height, width = types[node.values()[0]].shape[2:]
    rows, columns = node["output_size"]
    return f"{node.operation} ({height}x{width} to {rows}x{columns}: its windows differ in size)"


def binary_layer(graph: TypedGraph, number: int) -> SignConv2d:
    """Return the layer of a binary convolution."""
    node = graph.nodes[number - 1]
    named: dict[str, ConstantRef] = {name: node[name] for name in EPILOGUE if node[name] is not None}
    low, high = node["low"], node["high"]
    return SignConv2d(
        graph.array(node["signs"]),
        (node["stride"][0], node["stride"][1]),
        tuple(node["padding"]),
        (node["dilation"][0], node["dilation"][1]),
        node["groups"],
        node["pad_value"],
        {name: graph.array(item) for name, item in named.items()},
        -math.inf if low is None else float(low),
        math.inf if high is None else float(high),
        node["signs"].index,
    )


def binary_convolution(graph: TypedGraph, number: int) -> Lowering | None:
    """A binary convolution on signs that lie packed, with all that it has absorbed."""
    node = graph.nodes[number - 1]
    x, added, shape = node.inputs[0], node.input(1), graph.map_shape(node.inputs[0])
    if shape is None or not isinstance(x, Value) or not (added is None or graph.map_shape(added) is not None):
        return None
    layer = binary_layer(graph, number)
    if not _is_usual(graph, number) and (layer.kernel_size, layer.stride, layer.padding) != _POINTWISE:
        return None
    whole = layer.groups == 1 or layer.out_channels % BLOCK == 0
    residual = _repeated(graph, added, whole)
    threshold = node["threshold"]
    values = np.zeros(shape[0], np.float32) if threshold is None else graph.array(threshold).astype(np.float32)
    signs = Signs(x.number, shape, values.tobytes(), layer.groups, layer.padding, layer.pad_value == 1)

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        out = graph.map_at(number, places) if number in places else None
        more = None if residual is None else graph.map_at(residual, places)
        return [layer.call(constants, places[signs], shape, out, residual=more, node=number)]

    reads = (signs,) if residual is None else (signs, residual)
    same = residual is not None and graph.types[residual] == graph.types[number]
    over = (residual,) if same and residual is not None else ()
    return Lowering(number, reads, build, emits=whole, sums=whole, blocks=layer.groups, over=over)


_POINTWISE = ((1, 1), (1, 1), (0, 0, 0, 0))


def _is_usual(graph: TypedGraph, number: int) -> bool:
    """Whether the result is (N, C, H, W), and not rows as a map whose columns are the images."""
    return isinstance(graph.types[number].shape[0], Images)


def _repeated(graph: TypedGraph, added: Input | None, whole: bool) -> int | None:
    """Return what is added: of a concatenation with itself the part, whose channels are read again and again."""
    if not isinstance(added, Value):
        return None
    node = graph.node_of(added)
    if whole and node is not None and node.operation == "cat" and node["dim"] == 1:
        first, shape = node.inputs[0], graph.map_shape(node.inputs[0])
        alike = all(part == first for part in node.inputs)
        if alike and isinstance(first, Value) and shape is not None and shape[0] % BLOCK == 0:
            return first.number
    return added.number


def packing(graph: TypedGraph, signs: Signs) -> Lowering:
    """The packing of signs by itself, where what computes the value cannot do it."""
    planar = signs.value == 0 and not graph.images.in_bytes
    source = IMAGES if planar else signs.value

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        x: Map = graph.map_at(source, places)
        out = signs.at(places[signs])
        return [pack_signs(constants, x, signs.thresholds, signs.groups, out, node=signs.value)]

    return Lowering(signs, (source,), build)


# The rules of a graph's operations, by name; the first that fits is taken. A rule may compute nodes before its own as
# well, and read what these read: nodes that nothing reads any more are left out.
_LAYERS = (real_convolution, grouped_convolution, linear, combination)
_MOVES = ("reshape", "permute", "transpose", "unsqueeze", "squeeze", "select", "slice", "expand")
RULES: dict[str, tuple[Rule, ...]] = {
    "binary_conv2d": (binary_convolution,),
    "conv2d": (real_convolution, grouped_convolution),
    "byte_conv2d": (real_convolution,),
    **dict.fromkeys(("affine", "prelu"), _LAYERS),
    **dict.fromkeys(("clamp", "relu"), (*_LAYERS, function)),
    **dict.fromkeys(("add", "mul"), (combination, arithmetic)),
    "div": (normalization, arithmetic),
    "sub": (arithmetic,),
    "max_pool2d": (convolution_and_maxima, pooling),
    "avg_pool2d": (pooling,),
    **dict.fromkeys(("mean", "sum"), (over_map, reduction)),
    "amax": (reduction,),
    "adaptive_avg_pool2d": (over_map, pooling),
    "adaptive_max_pool2d": (pooling, reduction),
    "layer_norm": (layer_norm,),
    "pad": (padding,),
    "linear": (linear,),
    "sigmoid": (gate, function),
    **dict.fromkeys(("tanh", "hardsigmoid", "hardswish", "silu", "gelu", "leaky_relu", "neg"), (function,)),
    **dict.fromkeys(("softmax", "log_softmax"), (classes,)),
    "cat": (concatenation,),
    **dict.fromkeys(_MOVES, (copying,)),
}
