"""Binary linear layers of tokens, (N, L, C), as 1x1 convolutions of maps, (N, C, L, 1): the kernels' images are N."""

from collections.abc import Sequence

from bnn_lightning.deploy.ir.graph import Graph, Input, Node, Value
from bnn_lightning.deploy.ir.rewrite import Rewriter, without_dead_nodes
from bnn_lightning.deploy.ir.types import Images, Size, Type

_POINTWISE = (1, 1, 1, 1, 0, 0, 0, 0)


def rows_as_maps(graph: Graph, types: Sequence[Type]) -> Graph:
    """Compute binary layers of rows, (N * L, C, 1, 1), as those of maps, whose memory is the same.

    Args:
        graph: The graph.
        types: Types of the images and of the result of each node.

    Example:
        >>> from bnn_lightning.deploy.ir.shapes import types_of
        >>> nodes = Node("reshape", (Value(0),), {"shape": [-1, 8, 1, 1]}), Node("neg", (Value(1),))
        >>> rows_as_maps(Graph(nodes), types_of(Graph(nodes), (3, 8, 8))) == Graph(nodes)  # no binary layer
        True
    """
    if not any(_is_pointwise(graph, node) and _num_tokens(of) for node, of in zip(graph.nodes, types[1:], strict=True)):
        return graph
    return _RowsAsMaps(graph, types).run()


class _RowsAsMaps:
    """The new graph.

    Args:
        graph: The graph.
        types: Types of its values.

    Attributes:
        maps: Maps of values, (N * L, C, 1, 1), by number.
        tokens: The same as (N, L, C), of those that binary layers compute.
    """

    def __init__(self, graph: Graph, types: Sequence[Type]) -> None:
        self.graph, self.types, self.rewriter = graph, types, Rewriter(graph)
        self.maps: dict[int, Value] = {}
        self.tokens: dict[int, Value] = {}

    def run(self) -> Graph:
        """Return the new graph."""
        values = self.rewriter.values
        for number, node in enumerate(self.graph.nodes, start=1):
            if _is_pointwise(self.graph, node) and _num_tokens(self.types[number]):
                self._convolve(number, node)
            elif node.operation == "reshape" and node.values() and node.values()[0] in self.tokens:
                values[number] = self._reshaped(number, node)
            else:
                values[number] = self.rewriter.copy(node)
        return without_dead_nodes(self.rewriter.result(), values[len(self.graph.nodes)])

    def _convolve(self, number: int, node: Node) -> None:
        maps: list[Input] = [self._as_map(value) for value in node.values()]
        self.maps[number] = self.rewriter.add("binary_conv2d", maps, self.rewriter.attributes(node), node.name)
        _, tokens, channels = self._token_shape(number)
        x = self.rewriter.add("reshape", [self.maps[number]], {"shape": [-1, channels, tokens]})
        self.tokens[number] = self.rewriter.add("permute", [x], {"dims": [0, 2, 1]})
        rows = {"shape": [-1, channels, 1, 1]}
        self.rewriter.values[number] = self.rewriter.add("reshape", [self.tokens[number]], rows)

    def _as_map(self, number: int) -> Value:
        """Return the map of rows, (N * L, C, 1, 1)."""
        if number not in self.maps:
            node = self.graph.nodes[number - 1] if number else None
            source = node.values()[0] if node is not None and node.operation == "reshape" and node.values() else number
            _, tokens, channels = shape = self._token_shape(number)
            x = self.rewriter.values[source]
            if self.types[source].shape != shape:
                x = self.rewriter.add("reshape", [x], {"shape": [-1, tokens, channels]})
            x = self.rewriter.add("permute", [x], {"dims": [0, 2, 1]})
            self.maps[number] = self.rewriter.add("reshape", [x], {"shape": [-1, channels, tokens, 1]})
        return self.maps[number]

    def _reshaped(self, number: int, node: Node) -> Value:
        """Return tokens of a binary layer in the shape that its rows are read in."""
        rows = node.values()[0]
        if self.types[number].shape == self._token_shape(rows):
            return self.tokens[rows]
        return self.rewriter.add("reshape", [self.tokens[rows]], node.attributes, node.name)

    def _token_shape(self, number: int) -> tuple[Size, int, int]:
        """Return the shape, (N, L, C), of rows, (N * L, C, 1, 1)."""
        return Images(1), _num_tokens(self.types[number]), self.types[number].for_images(1)[1]


def _num_tokens(of: Type) -> int:
    """Return the tokens of an image in rows; 0 for what is none."""
    match of:
        case Type((Images(each), int(), 1, 1), "f32") if each > 1:
            return each
    return 0


def _is_pointwise(graph: Graph, node: Node) -> bool:
    if node.operation != "binary_conv2d":
        return False
    kernel = graph.constants[node["signs"].index].shape[2:]
    return (*kernel, *node["stride"], *node["padding"]) == _POINTWISE
