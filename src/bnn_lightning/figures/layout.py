"""Layout of the nodes of a graph: layers from top to bottom, modules as frames within frames."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from bnn_lightning.figures.layered import Layered, Link, arrange
from bnn_lightning.models.network_graph import NetworkGraph, ancestors, enclosing

Point = tuple[float, float]

# In points of a printer.
MARGIN = 6.0
TITLE = 10.0  # at the left of a frame
GAP = 9.0  # between things side by side


@dataclass(frozen=True)
class Box:
    """A rectangle; y grows downwards.

    Attributes:
        left: Position of its left side.
        top: Position of its upper side.
        width: Positive.
        height: Positive.
    """

    left: float
    top: float
    width: float
    height: float

    def moved(self, x: float, y: float) -> "Box":
        """Return the box, shifted."""
        return Box(self.left + x, self.top + y, self.width, self.height)

    @property
    def right(self) -> float:
        """Coordinate of its right side."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """Coordinate of its lower side."""
        return self.top + self.height

    @property
    def middle(self) -> float:
        """The horizontal one."""
        return self.left + self.width / 2


@dataclass
class Layout:
    """A graph with places for everything.

    Attributes:
        graph: Graph that was laid out.
        nodes: Box of each node.
        frames: Box of each module that holds nodes, the network left out.
        routes: For each edge, in the graph's order, the points that it passes through from source to target; between an
            odd point and the next it runs straight down.
        width: Width of everything.
        height: Height of everything.
    """

    graph: NetworkGraph
    nodes: dict[str, Box] = field(default_factory=dict)
    frames: dict[str, Box] = field(default_factory=dict)
    routes: list[list[Point]] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0


def lay_out(graph: NetworkGraph, sizes: Mapping[str, tuple[float, float]]) -> Layout:
    """Lay out a graph: every edge goes down, and no frame overlaps another or a node that is not in it.

    Args:
        graph: Without cycles.
        sizes: Width and height of each node, in points.

    Returns:
        The places, from (0, 0) to (width, height).
    """
    return _Layouter(graph, sizes).run()


@dataclass
class _Frame:
    """The inside of a module, from (0, 0), with the points at which edges enter and leave."""

    box: Box
    entries: dict[str, float]  # by the node that the edge comes from
    exits: dict[str, float]
    items: dict[str, Box]
    chains: dict[tuple[str, str], list[Point]]


class _Layouter:
    def __init__(self, graph: NetworkGraph, sizes: Mapping[str, tuple[float, float]]) -> None:
        self.graph, self.sizes = graph, sizes
        self.home = {node.name: ["", *ancestors(node.group, graph.groups)] for node in graph.nodes}
        self.frames: dict[str, _Frame] = {}
        self.layout = Layout(graph)

    def run(self) -> Layout:
        for path in sorted(self.graph.groups, key=lambda path: -len(ancestors(path, self.graph.groups))):
            self.frames[path] = self._inside(path)
        self._place("", 0.0, 0.0)
        self.layout.width, self.layout.height = self.frames[""].box.width, self.frames[""].box.height
        self.layout.routes = [self._route(edge.source, edge.target) for edge in self.graph.edges]
        return self.layout

    def _item(self, node: str, path: str) -> str | None:
        """Return the item of `node` directly inside the module `path`: itself or a frame; None if it is outside."""
        homes = self.home[node]
        if path not in homes:
            return None
        depth = homes.index(path) + 1
        return node if depth == len(homes) else f"/{homes[depth]}"

    def _inside(self, path: str) -> _Frame:
        sizes: dict[str, tuple[float, float]] = {}
        for node in self.graph.nodes:
            item = self._item(node.name, path)
            if item is not None:
                box = self.frames[item[1:]].box if item.startswith("/") else None
                sizes.setdefault(item, self.sizes[node.name] if box is None else (box.width, box.height))
        links = self._links(path, sizes)
        placed = arrange(sizes, links, gap=GAP)
        left = MARGIN + TITLE if path else 0.0
        top = MARGIN if path else 0.0
        right = MARGIN if path else 0.0
        box = Box(0.0, 0.0, placed.width + left + right, placed.height + 2 * top)
        return self._framed(placed, box, left, top)

    def _framed(self, placed: Layered, box: Box, left: float, top: float) -> _Frame:
        items = {
            name: Box(x + left, y + top, width, height)
            for name, (x, y, width, height) in placed.boxes.items()
            if name[0] not in "<>|"
        }
        entries = {name[1:]: x + left for name, (x, *_) in placed.boxes.items() if name[0] == "<"}
        exits = {name[1:]: x + left for name, (x, *_) in placed.boxes.items() if name[0] == ">"}
        chains = {key: [(x + left, y + top) for x, y in points] for key, points in placed.chains.items()}
        return _Frame(box, entries, exits, items, chains)

    def _links(self, path: str, sizes: dict[str, tuple[float, float]]) -> list[Link]:
        """Return the edges inside a module, each once for its source; "<" is an entry and ">" an exit."""
        arriving: dict[str, list[str]] = defaultdict(list)
        found: dict[tuple[str, str], Link] = {}
        for edge in self.graph.edges:
            source, target = self._item(edge.source, path), self._item(edge.target, path)
            if source == target:
                continue
            upper = f"<{edge.source}" if source is None else source
            lower = f">{edge.source}" if target is None else target
            for end in (upper, lower):
                sizes.setdefault(end, (0.0, 0.0))
            if (edge.source, lower) not in found:
                found[edge.source, lower] = Link(edge.source, upper, lower, leaves=self._leaves(edge.source, upper))
                arriving[lower].append(edge.source)
        for (name, lower), link in found.items():
            link.arrives = self._arrives(name, lower, arriving[lower])
        return list(found.values())

    def _leaves(self, source: str, item: str) -> float:
        """Return the place where an edge leaves an item, from its left side."""
        if item[0] == "<":
            return 0.0
        return self.frames[item[1:]].exits[source] if item[0] == "/" else self.sizes[item][0] / 2

    def _arrives(self, source: str, item: str, among: list[str]) -> float | None:
        """Return the place where an edge arrives at an item, from its left side; None leaves it open."""
        if item[0] == ">":
            return 0.0
        if item[0] == "/":
            return self.frames[item[1:]].entries[source]
        return self.sizes[item][0] / 2 if len(among) == 1 else None

    def _place(self, path: str, x: float, y: float) -> None:
        for name, box in self.frames[path].items.items():
            moved = box.moved(x, y)
            if name.startswith("/"):
                self.layout.frames[name[1:]] = moved
                self._place(name[1:], moved.left, moved.top)
            else:
                self.layout.nodes[name] = moved

    def _corner(self, path: str) -> Point:
        box = self.layout.frames.get(path)
        return (0.0, 0.0) if box is None else (box.left, box.top)

    def _route(self, source: str, target: str) -> list[Point]:
        """Join the pieces of an edge: up through the frames around its source, down through those of its target."""
        common = [path for path in self.home[source] if path in self.home[target]][-1]
        pieces = []
        path = self.home[source][-1]
        while path != common:
            pieces.append((path, f">{source}"))
            path = enclosing(path, self.graph.groups)
        for depth in range(self.home[target].index(common), len(self.home[target])):
            path = self.home[target][depth]
            item = self._item(target, path)
            assert item is not None
            pieces.append((path, item))
        points: list[Point] = []
        for path, lower in pieces:
            x, y = self._corner(path)
            points += [(px + x, py + y) for px, py in self.frames[path].chains[source, lower]]
        return points
