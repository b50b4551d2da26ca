"""Types of a graph's values, for any number of images: one function an operation, without torch."""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from bnn_lightning.deploy.ir.graph import ConstantRef, Graph, Node, Value
from bnn_lightning.deploy.ir.operations import operation_of
from bnn_lightning.deploy.ir.shape_moves import (
    cat,
    expand,
    pad,
    permute,
    reshape,
    select,
    sliced,
    squeeze,
    transpose,
    unsqueeze,
)
from bnn_lightning.deploy.ir.shape_windows import (
    adaptive_pool,
    binary_conv2d,
    byte_conv2d,
    check_bias,
    conv2d,
    pool,
    weight_sizes,
)
from bnn_lightning.deploy.ir.types import (
    Images,
    ShapeError,
    Size,
    Type,
    fixed,
    need,
    need_floats,
    place_of,
    places_of,
    text_of,
)


def types_of(graph: Graph, shape: tuple[int, int, int]) -> list[Type]:
    """Return the types of the images and of the result of each node.

    Args:
        graph: A graph.
        shape: Shape of an image: channels, height, width.

    Raises:
        ShapeError: Names the node whose inputs and attributes do not fit.

    Example:
        >>> graph = Graph((Node("mean", (Value(0),), {"dims": [2, 3]}),))
        >>> types_of(graph, (3, 8, 8))[1].for_images(5)
        (5, 3)
    """
    types = [Type((Images(1), *shape))]
    for node in graph.nodes:
        types.append(type_of(graph, node, types))
    return types


def type_of(graph: Graph, node: Node, types: Sequence[Type]) -> Type:
    """Return the type of a node's result.

    Args:
        graph: Graph that holds the constants.
        node: A node.
        types: Types of the values before it.

    Raises:
        ShapeError: Its inputs and attributes do not fit.
    """
    inputs = [types[item.number] if isinstance(item, Value) else _constant(graph, item) for item in node.inputs]
    operation = operation_of(node.operation)
    try:
        need(operation.least <= len(inputs) <= operation.most, f"it takes {operation.least} to {operation.most} inputs")
        if node.operation == "binary_conv2d":
            return binary_conv2d(graph, node, inputs)
        return RULES[node.operation](node, inputs)
    except ShapeError as error:
        shapes = ", ".join(text_of(item) for item in inputs)
        raise ShapeError(f"Node {len(types)}, `{node.operation}` of {shapes}: {error}") from None


def _constant(graph: Graph, ref: ConstantRef) -> Type:
    constant = graph.constants[ref.index]
    return Type(constant.shape, "f32" if constant.dtype == "bits" else constant.dtype)


# Element by element


def _same(node: Node, inputs: Sequence[Type]) -> Type:
    need_floats(inputs[0])
    return inputs[0]


def _softmax(node: Node, inputs: Sequence[Type]) -> Type:
    place_of(node["dim"], len(inputs[0].shape))
    return _same(node, inputs)


def _clamp(node: Node, inputs: Sequence[Type]) -> Type:
    need(node["low"] is not None or node["high"] is not None, "it has no bound")
    return _same(node, inputs)


def _arithmetic(node: Node, inputs: Sequence[Type]) -> Type:
    need((len(inputs) == 2) != (node["other"] is not None), "it takes two inputs, or one and `other`")
    x = inputs[0]
    if len(inputs) == 1:
        whole = x.dtype != "f32" and isinstance(node["other"], int) and node.operation != "div"
        need(whole or x.dtype == "f32", "it makes floats of whole numbers, whose type is up to the process")
        return x
    y = inputs[1]
    dtype = "f32" if "f32" in (x.dtype, y.dtype) else x.dtype
    known = dtype == "f32" or (x.dtype == y.dtype and node.operation != "div")
    need(known, "it makes floats of whole numbers, or mixes their types")
    return Type(_broadcast(x.shape, y.shape), dtype)


def _broadcast(one: tuple[Size, ...], other: tuple[Size, ...]) -> tuple[Size, ...]:
    """Return the shape of two shapes together."""
    rank = max(len(one), len(other))
    sizes: list[Size] = []
    for a, b in zip((1,) * (rank - len(one)) + one, (1,) * (rank - len(other)) + other, strict=True):
        need(a == b or a == 1 or b == 1, "its inputs do not fit each other")
        sizes.append(b if a == 1 else a)
    need(sum(isinstance(size, Images) for size in sizes) <= 1, "images are mixed with each other")
    return tuple(sizes)


def _prelu(node: Node, inputs: Sequence[Type]) -> Type:
    x, slope = inputs
    need_floats(x, slope)
    channels = x.shape[1] if len(x.shape) > 1 else 1
    need(len(slope.shape) <= 1 and slope.shape in ((), (1,), (channels,)), "its slopes are none of these channels")
    return x


def _affine(node: Node, inputs: Sequence[Type]) -> Type:
    x, scale, shift = inputs
    need_floats(*inputs)
    need(len(x.shape) >= 2, "it takes (N, C, ...)")
    values = [math.prod(fixed(size, "its scale") for size in item.shape) for item in (scale, shift)]
    shapes = [(1, value, *(1,) * (len(x.shape) - 2)) for value in values]
    return Type(_broadcast(_broadcast(shapes[1], x.shape), shapes[0]))


def _dequantize(node: Node, inputs: Sequence[Type]) -> Type:
    weight, scale = inputs
    need(weight.dtype == "i8" and scale.dtype == "f32", "it takes int8 weights and a scale in floats")
    sizes = [fixed(size, "weights") for size in weight.shape]
    scales = math.prod(fixed(size, "the scale") for size in scale.shape)
    need(bool(sizes) and scales == sizes[0], "its scales are none of these output channels")
    return Type(weight.shape)


# Rows and reductions


def _linear(node: Node, inputs: Sequence[Type]) -> Type:
    x, weight = inputs[:2]
    need_floats(*inputs)
    need(len(weight.shape) == 2 and len(x.shape) >= 1, "it takes rows, and weights (outputs, inputs)")
    outputs, factors = weight_sizes(weight)
    need(x.shape[-1] == factors, "its weights do not fit these rows")
    check_bias(inputs, 2, outputs)
    return Type((*x.shape[:-1], outputs))


def _layer_norm(node: Node, inputs: Sequence[Type]) -> Type:
    x = inputs[0]
    need_floats(*inputs)
    places = sorted(places_of(node["dims"], len(x.shape)))
    need(bool(places), "it takes dimensions")
    sizes = tuple(fixed(x.shape[place], "what is normalized") for place in places)
    need(0 not in sizes and all(item == Type(sizes) for item in inputs[1:]), f"its scale and shift must be {sizes}")
    need(0 <= node["eps"] < math.inf, f"`eps` must be a number from 0 on, got {node['eps']}")
    return x


def _reduced(node: Node, inputs: Sequence[Type]) -> Type:
    (x,) = inputs
    need_floats(x)
    places = places_of(node["dims"], len(x.shape)) or list(range(len(x.shape)))
    need(node.operation != "amax" or all(x.shape[place] != 0 for place in places), "nothing has no maximum")
    if node["keepdim"]:
        return Type(tuple(1 if place in places else size for place, size in enumerate(x.shape)))
    return Type(tuple(size for place, size in enumerate(x.shape) if place not in places))


Rule: TypeAlias = Callable[[Node, Sequence[Type]], Type]
RULES: dict[str, Rule] = {
    **dict.fromkeys(("add", "sub", "mul", "div"), _arithmetic),
    **dict.fromkeys(("hardsigmoid", "hardswish", "neg", "relu", "sigmoid", "silu", "tanh", "gelu"), _same),
    **dict.fromkeys(("log_softmax", "softmax"), _softmax),
    **dict.fromkeys(("amax", "mean", "sum"), _reduced),
    **dict.fromkeys(("avg_pool2d", "max_pool2d"), pool),
    **dict.fromkeys(("adaptive_avg_pool2d", "adaptive_max_pool2d"), adaptive_pool),
    "affine": _affine,
    "byte_conv2d": byte_conv2d,
    "cat": cat,
    "clamp": _clamp,
    "conv2d": conv2d,
    "dequantize": _dequantize,
    "expand": expand,
    "layer_norm": _layer_norm,
    "leaky_relu": _same,
    "linear": _linear,
    "pad": pad,
    "permute": permute,
    "prelu": _prelu,
    "reshape": reshape,
    "select": select,
    "slice": sliced,
    "squeeze": squeeze,
    "transpose": transpose,
    "unsqueeze": unsqueeze,
}
