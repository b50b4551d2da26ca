"""Channels-last parts of a graph, (N, H, W, C), as maps, (N, C, H, W): what kernels compute without moving elements."""

from collections.abc import Callable, Sequence

from bnn_lightning.deploy.ir.graph import AttributeValue, Constant, ConstantRef, Graph, Input, Node, Value
from bnn_lightning.deploy.ir.rewrite import Rewriter, without_dead_nodes
from bnn_lightning.deploy.ir.types import Images, Size, Type

_TO_LAST, _TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
_ELEMENTWISE = ("clamp", "hardsigmoid", "hardswish", "neg", "relu", "sigmoid", "silu", "tanh", "gelu", "leaky_relu")
_ARITHMETIC = ("add", "sub", "mul", "div")


def channels_first(graph: Graph, types: Sequence[Type]) -> Graph:
    """Compute what follows a permutation to channels-last as maps: norms, linear layers, functions of each value.

    A linear layer of the channels is a 1x1 convolution, and a layer norm one over the channels. Where anything else
    reads a channels-last value, the permutation stands there.

    Args:
        graph: The graph.
        types: Types of the images and of the result of each node.

    Example:
        >>> from bnn_lightning.deploy.ir.shapes import types_of
        >>> nodes = Node("permute", (Value(0),), {"dims": [0, 2, 3, 1]}), Node("gelu", (Value(1),))
        >>> graph = Graph((*nodes, Node("permute", (Value(2),), {"dims": [0, 3, 1, 2]})))
        >>> channels_first(graph, types_of(graph, (3, 8, 8))).plain()
        [['gelu', [0]]]
    """
    if not any(node.operation == "permute" and list(node["dims"]) == _TO_LAST for node in graph.nodes):
        return graph
    return _ChannelsFirst(graph, types).run()


class _ChannelsFirst:
    """The new graph, and the old values that are maps in it.

    Args:
        graph: The graph.
        types: Types of its values.

    Attributes:
        maps: Maps of values, (N, H, W, C), by number.
        rows: Maps of values, (N * H * W, C, 1, 1), with height and width, by number.
    """

    def __init__(self, graph: Graph, types: Sequence[Type]) -> None:
        self.graph, self.types, self.rewriter = graph, types, Rewriter(graph)
        self.maps: dict[int, Value] = {}
        self.rows: dict[int, tuple[Value, tuple[Size, ...]]] = {}

    def run(self) -> Graph:
        """Return the new graph."""
        for number, node in enumerate(self.graph.nodes, start=1):
            rule = _RULES.get(node.operation)
            if rule is None or not rule(self, number, node):
                for value in node.values():
                    self.settle(value)
                self.rewriter.values[number] = self.rewriter.copy(node)
        return without_dead_nodes(self.rewriter.result(), self.settle(len(self.graph.nodes)))

    def settle(self, number: int) -> Value:
        """Return an old value in its own shape."""
        if number not in self.rewriter.values:
            x = self.maps[number] if number in self.maps else self.rows[number][0]
            x = self.rewriter.add("permute", [x], {"dims": _TO_LAST})
            if number in self.rows:
                x = self.rewriter.add("reshape", [x], {"shape": [-1, self.types[number].for_images(1)[1], 1, 1]})
            self.rewriter.values[number] = x
        return self.rewriter.values[number]

    def map_of(self, item: Input | None) -> Value | None:
        """Return the map of a channels-last value."""
        return self.maps.get(item.number) if isinstance(item, Value) else None

    def constant(self, ref: ConstantRef, shape: Sequence[int]) -> ConstantRef:
        """Return a constant in another shape."""
        constant = self.graph.constants[ref.index]
        return self.rewriter.constant(Constant.of(constant.name, constant.dtype, constant.array.reshape(shape)))


def _permute(to: _ChannelsFirst, number: int, node: Node) -> bool:
    dims, x = list(node["dims"]), node.inputs[0]
    of = to.map_of(x)
    if of is not None and dims == _TO_FIRST:
        to.rewriter.values[number] = of
        return True
    if not isinstance(x, Value) or dims != _TO_LAST or of is not None or to.types[number].dtype != "f32":
        return False
    to.maps[number] = to.settle(x.number)
    return True


def _elementwise(to: _ChannelsFirst, number: int, node: Node) -> bool:
    x = to.map_of(node.inputs[0])
    if x is None:
        return False
    to.maps[number] = to.rewriter.add(node.operation, [x], node.attributes, node.name)
    return True


def _arithmetic(to: _ChannelsFirst, number: int, node: Node) -> bool:
    inputs = [_operand(to, number, item) for item in node.inputs]
    found = [item for item in inputs if item is not None]
    if len(found) < len(inputs) or not any(isinstance(item, Value) for item in found):
        return False
    to.maps[number] = to.rewriter.add(node.operation, found, node.attributes, node.name)
    return True


def _operand(to: _ChannelsFirst, number: int, item: Input) -> Input | None:
    """Return a map like the result's, or values of its channels."""
    if isinstance(item, Value):
        return to.map_of(item) if to.types[item.number] == to.types[number] else None
    constant, channels = to.graph.constants[item.index], to.types[number].shape[-1]
    plain = constant.dtype == "f32" and constant.array.size in (1, channels)
    last = not constant.shape or constant.shape[-1] == constant.array.size
    return to.constant(item, (-1, 1, 1)) if plain and last and len(constant.shape) <= 4 else None


def _layer_norm(to: _ChannelsFirst, number: int, node: Node) -> bool:
    x = to.map_of(node.inputs[0])
    if x is None or list(node["dims"]) not in ([3], [-1]):
        return False
    inputs = [x, *(to.rewriter.moved(item) for item in node.inputs[1:])]
    attributes: dict[str, AttributeValue] = {**node.attributes, "dims": [1]}
    to.maps[number] = to.rewriter.add("layer_norm", inputs, attributes, node.name)
    return True


def _linear(to: _ChannelsFirst, number: int, node: Node) -> bool:
    x, weight, bias = to.map_of(node.inputs[0]), node.inputs[1], node.input(2)
    if x is None or not isinstance(weight, ConstantRef) or isinstance(bias, Value):
        return False
    inputs: list[Input] = [x, to.constant(weight, (*to.graph.constants[weight.index].shape, 1, 1))]
    inputs += [] if bias is None else [to.rewriter.moved(bias)]
    to.maps[number] = to.rewriter.add("conv2d", inputs, {}, node.name)
    return True


def _reshape(to: _ChannelsFirst, number: int, node: Node) -> bool:
    x = node.inputs[0]
    if not isinstance(x, Value):
        return False
    shape, before = to.types[number].shape, to.types[x.number].shape
    of, rows = to.map_of(x), to.rows.get(x.number)
    if of is not None and shape[1:] == (before[-1], 1, 1) and isinstance(shape[0], Images):
        to.rows[number] = of, before[1:3]
        return True
    if rows is None or shape != (Images(1), *rows[1], before[1]):
        return False
    to.maps[number] = rows[0]
    return True


def _binary_conv2d(to: _ChannelsFirst, number: int, node: Node) -> bool:
    source = node.inputs[0]
    of = to.rows.get(source.number) if isinstance(source, Value) else None
    kernel = to.graph.constants[node["signs"].index].shape[2:]
    window = (*kernel, *node["stride"], *node["padding"])
    if of is None or len(node.inputs) > 1 or window != (1, 1, 1, 1, 0, 0, 0, 0):
        return False
    x = to.rewriter.add("binary_conv2d", [of[0]], to.rewriter.attributes(node), node.name)
    to.rows[number] = x, of[1]
    return True


_RULES: dict[str, Callable[[_ChannelsFirst, int, Node], bool]] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_ARITHMETIC, _arithmetic),
    "binary_conv2d": _binary_conv2d,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "permute": _permute,
    "reshape": _reshape,
}
