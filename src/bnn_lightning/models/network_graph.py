"""A network as a graph: plain data for figures, tables and event files."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from bnn_lightning.utils.checks import check_integer

Kind = Literal[
    "input",
    "output",
    "weights",
    "sign",
    "binary",
    "conv",
    "norm",
    "activation",
    "pool",
    "elementwise",
    "other",
    "group",
]


@dataclass(frozen=True)
class GraphNode:
    """An operation of a network, or a value that enters or leaves it.

    Attributes:
        name: Unique; the path of the module, or of the module that computes it and what is computed.
        label: Text in a figure.
        detail: Its sizes, for a figure.
        kind: Kind of operation, which chooses the color.
        group: Path of the module that it belongs to; "" is the network.
        shape: Shape of its output, without the batch.
    """

    name: str
    label: str
    detail: str
    kind: Kind
    group: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Edge:
    """A tensor on its way from one node to another.

    Attributes:
        source: Name of a node.
        target: Name of a node.
        binary: Whether every element is -1 or +1.
    """

    source: str
    target: str
    binary: bool


@dataclass(frozen=True)
class NetworkGraph:
    """Nodes in order of execution, the edges between them, and the modules that they belong to.

    Attributes:
        nodes: In order of execution.
        edges: In the order of their targets.
        groups: Path and class of every module that holds nodes, outer ones first; "" is the network.
    """

    nodes: tuple[GraphNode, ...]
    edges: tuple[Edge, ...]
    groups: Mapping[str, str]

    @property
    def binary_edges(self) -> tuple[Edge, ...]:
        """The edges that carry signs."""
        return tuple(edge for edge in self.edges if edge.binary)

    def rows(self) -> list[dict[str, str | int]]:
        """Return the edges as a table: source, target, whether it is binary, and the shape of the tensor."""
        shapes = {node.name: node.shape for node in self.nodes}
        return [
            {
                "source": edge.source,
                "target": edge.target,
                "binary": int(edge.binary),
                "shape": "x".join(map(str, shapes[edge.source])),
            }
            for edge in self.edges
        ]


def enclosing(path: str, groups: Mapping[str, str]) -> str:
    """Return the innermost group that holds the group `path`; "" where it is the network itself."""
    parts = path.split(".")
    return next((p for n in range(len(parts) - 1, 0, -1) if (p := ".".join(parts[:n])) in groups), "")


def ancestors(path: str, groups: Mapping[str, str]) -> list[str]:
    """Return the groups around a node whose own group is `path`, outermost first, the network left out."""
    found = []
    while path:
        found.append(path)
        path = enclosing(path, groups)
    return found[::-1]


def without_nodes(graph: NetworkGraph, drop: Callable[[GraphNode], bool]) -> NetworkGraph:
    """Return a graph without some nodes and their edges, and without modules that hold no other."""
    nodes = tuple(node for node in graph.nodes if not drop(node))
    kept = {node.name for node in nodes}
    edges = tuple(edge for edge in graph.edges if edge.source in kept and edge.target in kept)
    return _tidy(nodes, edges, graph.groups)


def without_weights(graph: NetworkGraph) -> NetworkGraph:
    """Return a graph without weights and what is computed of them alone."""
    of_weights: set[str] = set()
    sources: dict[str, list[str]] = {}
    for edge in graph.edges:
        sources.setdefault(edge.target, []).append(edge.source)
    for node in graph.nodes:
        before = sources.get(node.name, [])
        if node.kind == "weights" or (before and all(name in of_weights for name in before)):
            of_weights.add(node.name)
    return without_nodes(graph, lambda node: node.name in of_weights)


def collapsed(graph: NetworkGraph, collapse: Callable[[str, str], bool]) -> NetworkGraph:
    """Return a graph in which chosen modules are single nodes.

    Args:
        graph: Any graph.
        collapse: Whether a module, by its path and its class, becomes a node; asked from the outside to the inside.
    """
    inside = {node.name: _outermost(node, graph, collapse) for node in graph.nodes}
    members: dict[str, list[GraphNode]] = {}
    for node in graph.nodes:
        if inside[node.name] is not None:
            members.setdefault(str(inside[node.name]), []).append(node)
    leaving = {edge.source for edge in graph.edges if inside[edge.source] != inside[edge.target]}
    nodes: dict[str, GraphNode] = {}
    for node in graph.nodes:
        path = inside[node.name]
        if path is None:
            nodes[node.name] = node
        elif path not in nodes:
            last = next((n for n in reversed(members[path]) if n.name in leaving), members[path][-1])
            convs = sum(n.kind == "binary" for n in members[path])
            detail = f"{convs} binary" if convs else ""
            group = enclosing(path, graph.groups)
            nodes[path] = GraphNode(path, graph.groups[path], detail, "group", group, last.shape)
    edges: dict[Edge, None] = {}
    for edge in graph.edges:
        ends = (inside[edge.source] or edge.source, inside[edge.target] or edge.target)
        if ends[0] != ends[1]:
            edges[Edge(*ends, edge.binary)] = None
    return _tidy(tuple(nodes.values()), tuple(edges), graph.groups)


def _outermost(node: GraphNode, graph: NetworkGraph, collapse: Callable[[str, str], bool]) -> str | None:
    return next((path for path in ancestors(node.group, graph.groups) if collapse(path, graph.groups[path])), None)


def to_depth(graph: NetworkGraph, depth: int) -> NetworkGraph:
    """Return a graph in which modules that lie `depth` deep, counted in modules, are single nodes.

    Raises:
        ValueError: `depth` is below 1.
    """
    check_integer("depth", depth, 1)
    return collapsed(graph, lambda path, _: len(ancestors(path, graph.groups)) >= depth)


def with_repeats(graph: NetworkGraph) -> NetworkGraph:
    """Return a graph in which nodes of a chain that say the same are one, with their number."""
    before: dict[str, list[Edge]] = {}
    after: dict[str, list[Edge]] = {}
    for edge in graph.edges:
        before.setdefault(edge.target, []).append(edge)
        after.setdefault(edge.source, []).append(edge)
    stands_for: dict[str, str] = {}
    count: dict[str, int] = {}
    by_name = {node.name: node for node in graph.nodes}
    for node in graph.nodes:
        stands_for[node.name] = node.name
        count[node.name] = 1
        entering = before.get(node.name, [])
        if len(entering) == 1 and len(after[entering[0].source]) == 1 and node.kind == "group":
            previous = by_name[entering[0].source]
            if (previous.label, previous.detail, previous.shape) == (node.label, node.detail, node.shape):
                first = stands_for[previous.name]
                stands_for[node.name] = first
                count[first] += 1
    nodes = tuple(
        replace(node, label=f"{node.label} ×{count[node.name]}") if count[node.name] > 1 else node
        for node in graph.nodes
        if stands_for[node.name] == node.name
    )
    edges = dict.fromkeys(
        Edge(stands_for[e.source], stands_for[e.target], e.binary)
        for e in graph.edges
        if stands_for[e.source] != stands_for[e.target]
    )
    return _tidy(nodes, tuple(edges), graph.groups)


def _tidy(nodes: tuple[GraphNode, ...], edges: tuple[Edge, ...], groups: Mapping[str, str]) -> NetworkGraph:
    """Leave out modules that hold fewer than two things, which a frame around would only repeat."""
    kept = dict(groups)
    for path in sorted((path for path in groups if path), key=lambda path: -path.count(".")):
        inner = [other for other in kept if other and other != path and enclosing(other, kept) == path]
        own = [node for node in nodes if _home(node.group, kept) == path]
        if len(inner) + len(own) < 2:
            del kept[path]
    return NetworkGraph(tuple(replace(node, group=_home(node.group, kept)) for node in nodes), edges, kept)


def _home(path: str, groups: Mapping[str, str]) -> str:
    return path if path in groups or not path else enclosing(path, groups)


def make_graph(nodes: Iterable[GraphNode], edges: Iterable[Edge], groups: Mapping[str, str]) -> NetworkGraph:
    """Make a graph, without modules that hold fewer than two things."""
    return _tidy(tuple(nodes), tuple(edges), groups)
