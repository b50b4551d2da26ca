"""Sequences, (N, C, L), as maps with one row, (N, C, 1, L): what follows a 1-d convolution is then folded into it."""

from collections.abc import Mapping, Sequence

from bnn_lightning.deploy.ir.graph import Graph, Node, Value
from bnn_lightning.deploy.ir.rewrite import Rewriter, without_dead_nodes
from bnn_lightning.deploy.ir.types import Type

# Operations whose results have the shape of their inputs, whatever that is; the first two have values a channel.
_OF_CHANNELS = ("affine", "prelu")
_OF_ELEMENTS = (
    *("relu", "clamp", "leaky_relu", "hardsigmoid", "hardswish", "sigmoid", "silu", "tanh", "gelu", "neg"),
    *("add", "sub", "mul", "div"),
)


def sequences_as_maps(graph: Graph, types: Sequence[Type]) -> Graph:
    """Compute batch norms and PReLU of sequences on maps with one row, and what stands between these and convolutions.

    Args:
        graph: The graph.
        types: Types of the images and of the result of each node.

    Example:
        >>> from bnn_lightning.deploy.ir.shapes import types_of
        >>> nodes = Node("squeeze", (Value(0),), {"dims": [2]}), Node("relu", (Value(1),)), Node("neg", (Value(2),))
        >>> graph = Graph((*nodes, Node("unsqueeze", (Value(3),), {"dim": 2})))
        >>> [node.operation for node in sequences_as_maps(graph, types_of(graph, (3, 1, 4))).nodes]
        ['relu', 'neg']
    """
    rewriter, maps = Rewriter(graph), dict[int, Value]()  # maps: of sequences, by the number in the old graph
    for number, node in enumerate(graph.nodes, start=1):
        inputs, rank = node.values(), len(types[number].shape)
        if rank == 3 and _can_be_of_maps(node, types, number, maps):
            for value in inputs:
                if value not in maps:
                    maps[value] = rewriter.add("unsqueeze", [rewriter.values[value]], {"dim": 2})
            moved = [maps[item.number] if isinstance(item, Value) else rewriter.kept(item) for item in node.inputs]
            maps[number] = rewriter.add(node.operation, moved, node.attributes, node.name)
            rewriter.values[number] = rewriter.add("squeeze", [maps[number]], {"dims": [2]})
        elif node.operation == "unsqueeze" and rank == 4 and node["dim"] % 4 == 2 and inputs[0] in maps:
            rewriter.values[number] = maps[inputs[0]]
        else:
            rewriter.values[number] = rewriter.copy(node)
            if node.operation == "squeeze" and rank == 3 and _drops_rows(node, types):
                maps[number] = rewriter.values[inputs[0]]
    return without_dead_nodes(rewriter.result(), rewriter.values[len(graph.nodes)])


def _can_be_of_maps(node: Node, types: Sequence[Type], number: int, maps: Mapping[int, Value]) -> bool:
    """Whether a node of sequences gives the same of maps: it has values a channel, or none, and inputs of one shape."""
    if any(types[value] != types[number] for value in node.values()):
        return False
    if node.operation in _OF_CHANNELS:
        return isinstance(node.inputs[0], Value) and len(node.values()) == 1
    known = all(value in maps for value in node.values())
    return node.operation in _OF_ELEMENTS and known and len(node.values()) == len(node.inputs) > 0


def _drops_rows(node: Node, types: Sequence[Type]) -> bool:
    (value,) = node.values()
    return len(types[value].shape) == 4 and [dim % 4 for dim in node["dims"]] == [2]
