"""Shapes of what slides windows over maps: convolutions and pooling."""

import math
from collections.abc import Sequence

from bnn_lightning.deploy.ir.graph import Graph, Node
from bnn_lightning.deploy.ir.operations import MOST_FACTORS, PARTS
from bnn_lightning.deploy.ir.types import Images, Size, Type, fixed, need, need_floats, text_of


def _outputs(size: Size, kernel: int, stride: int, padding: int, dilation: int, *, ceil: bool = False) -> Size:
    """Return the number of windows along a dimension; `padding` is that of both sides together."""
    if isinstance(size, Images):
        need((kernel, stride, padding) == (1, 1, 0), "a window reaches over several images")
        return size
    reach = dilation * (kernel - 1) + 1
    steps = size + padding - reach
    outputs = (-(-steps // stride) if ceil else steps // stride) + 1
    need(outputs > 0, "a map is smaller than the kernel")
    return outputs


def _positive(node: Node, *names: str) -> None:
    for name in names:
        value = node[name]
        need(all(item > 0 for item in (value if isinstance(value, list) else [value])), f"`{name}` must be above 0")


def _unpadded(node: Node) -> None:
    need(all(item >= 0 for item in node["padding"]), "`padding` must not be below 0")


def _map(x: Type) -> tuple[Size, int, Size, Size]:
    need_floats(x)
    need(len(x.shape) == 4, "it takes (N, C, H, W)")
    number, channels, height, width = x.shape
    return number, fixed(channels, "channels"), height, width


def _convolved(node: Node, x: Type, weight: Sequence[int], padding: Sequence[int], groups: int) -> Type:
    """Return the type of a convolution; `padding` is that of both sides together."""
    number, channels, *sizes = _map(x)
    _positive(node, "stride", "dilation")
    _unpadded(node)
    need(len(weight) == 4 and groups > 0 and all(weight), "its weights must be (out_channels, in_channels, H, W)")
    need(weight[0] % groups == 0 and channels == weight[1] * groups, "its weights do not fit these channels")
    taps = zip(sizes, weight[2:], node["stride"], padding, node["dilation"], strict=True)
    return Type((number, weight[0], *(_outputs(*item) for item in taps)))


def weight_sizes(x: Type) -> list[int]:
    """Return the sizes of weights."""
    return [fixed(size, "weights") for size in x.shape]


def check_bias(inputs: Sequence[Type], place: int, outputs: Size) -> None:
    """Refuse a bias that has not a number for each output."""
    if len(inputs) > place:
        need(inputs[place] == Type((outputs,)), "its bias must have a number for each output")


def conv2d(node: Node, inputs: Sequence[Type]) -> Type:
    """A convolution of real weights."""
    need_floats(*inputs)
    weight = weight_sizes(inputs[1])
    found = _convolved(node, inputs[0], weight, [2 * pad for pad in node["padding"]], node["groups"])
    check_bias(inputs, 2, weight[0])
    return found


def byte_conv2d(node: Node, inputs: Sequence[Type]) -> Type:
    """A convolution of images in bytes with int8 weights."""
    x, weight, scale, around = inputs[:4]
    sizes = weight_sizes(weight)
    need(weight.dtype == "i8" and len(sizes) == 4, "its weights must be int8, (out_channels, in_channels, H, W)")
    need(math.prod(sizes[1:]) < MOST_FACTORS, "its sums have too many factors")
    found = _convolved(node, x, sizes, [2 * pad for pad in node["padding"]], 1)
    need(scale == Type((sizes[0],)) and around == Type((sizes[1],)), "its scale or surroundings do not fit")
    check_bias(inputs, 4, sizes[0])
    return found


def binary_conv2d(graph: Graph, node: Node, inputs: Sequence[Type]) -> Type:
    """A binary convolution."""
    signs, groups = graph.constants[node["signs"].index], node["groups"]
    top, bottom, left, right = node["padding"]
    need(node["pad_value"] in (-1, 0, 1), f"a padding value must be 0, -1 or +1, got {node['pad_value']}")
    found = _convolved(node, inputs[0], signs.shape, (top + bottom, left + right), groups)
    for name in PARTS[1:]:
        if node[name] is not None:
            part = graph.constants[node[name].index]
            wanted = (signs.shape[1] * groups if name == "threshold" else signs.shape[0],)
            floats = part.dtype in ("f32", "bits")
            need(floats and part.shape == wanted, f"`{name}` must be floats of the shape {wanted}, got {part.shape}")
    if len(inputs) > 1:
        need(inputs[1] == found, f"what is added must be {text_of(found)}")
    return found


def pool(node: Node, inputs: Sequence[Type]) -> Type:
    """Maxima or averages of windows."""
    number, channels, *sizes = _map(inputs[0])
    dilation = node["dilation"] if node.operation == "max_pool2d" else [1, 1]
    kernel, stride, padding = node["kernel_size"], node["stride"], node["padding"]
    _positive(node, "kernel_size", "stride")
    _unpadded(node)
    need(all(item > 0 for item in dilation), "`dilation` must be above 0")
    need(all(2 * pad <= size for pad, size in zip(padding, kernel, strict=True)), "it pads more than half a window")
    need(channels > 0 and 0 not in sizes, "a map is empty")
    if node.operation == "avg_pool2d":
        need(node["divisor_override"] != 0, "`divisor_override` must not be 0")
    found: list[Size] = []
    for i, size in enumerate(sizes):
        out = _outputs(size, kernel[i], stride[i], 2 * padding[i], dilation[i], ceil=node["ceil_mode"])
        if node["ceil_mode"] and isinstance(size, int) and isinstance(out, int):
            out -= (out - 1) * stride[i] >= size + padding[i]  # the last window begins in the map or before it
        found.append(out)
    return Type((number, channels, *found))


def adaptive_pool(node: Node, inputs: Sequence[Type]) -> Type:
    """Averages or maxima over as many windows as asked for."""
    number, channels, height, width = _map(inputs[0])
    need(all(fixed(size, "a map") > 0 for size in (height, width)), "a map is empty")
    need(all(item >= 0 for item in node["output_size"]), "`output_size` must not be below 0")
    return Type((number, channels, *node["output_size"]))
