"""Draw graphs of networks: binary and real edges told apart, modules in frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from bnn_lightning.figures.layout import Box, Layout, Point, lay_out
from bnn_lightning.figures.style import COLORS, EXTRA
from bnn_lightning.models.network_graph import GraphNode, Kind, NetworkGraph
from bnn_lightning.utils.optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 72.0  # of an inch
FONT = 7.0
_DETAIL = 5.8
_PAD = 4.0
_HEAD = (2.3, 4.6)  # of an arrow: half its width, its length
_HEADING = 20.0
_LEGEND = 18.0
_SPACE = 16.0  # between graphs, and around them
BINARY_COLOR = COLORS[1]
REAL_COLOR = "#4d4d4d"
FILLS: Mapping[Kind, str] = {
    "input": "#ffffff",
    "output": "#ffffff",
    "weights": "#f0f0f0",
    "sign": "#fbd5b5",
    "binary": "#fbd5b5",
    "conv": "#cfe3f2",
    "norm": "#e6f1df",
    "activation": "#f6e3ef",
    "pool": "#ece7f6",
    "elementwise": "#ffffff",
    "other": "#ffffff",
    "group": "#e8eef4",
}
# Meanings of the fills, in the order of the legend.
_MEANINGS: Mapping[str, tuple[Kind, ...]] = {
    "1-bit operation": ("sign", "binary"),
    "real convolution": ("conv",),
    "normalization": ("norm",),
    "activation": ("activation",),
    "pooling": ("pool",),
    "real weights": ("weights",),
    "module": ("group",),
}


@dataclass(frozen=True)
class Panel:
    """A graph with places, and its place in a figure.

    Attributes:
        layout: Layout of the graph.
        title: Above it.
        left: In points.
        top: In points, of the graph under the title.
    """

    layout: Layout
    title: str
    left: float
    top: float

    def box(self, node: str) -> Box:
        """Return the place of a node in the figure."""
        return self.layout.nodes[node].moved(self.left, self.top)


def draw_graph(graph: NetworkGraph, title: str = "") -> "Figure":
    """Draw the graph of a network.

    Edges that carry signs are dashed, thick and orange, the others thin and gray; frames are modules. Artists have ids
    (`node:<name>`, `edge:<source>:<target>:binary`), which a written SVG keeps.

    Args:
        graph: From `trace_graph`.
        title: Above it.

    Returns:
        A figure of the size that the graph needs, with letters of 7 points.

    Example:
        >>> import torch
        >>> from bnn_lightning.models.conv_blocks import XNORUnit
        >>> from bnn_lightning.analysis import trace_graph
        >>> figure = draw_graph(trace_graph(XNORUnit(8, 8), torch.randn(1, 8, 4, 4)), "XNOR-Net")
        >>> sum("binary" in (line.get_gid() or "") for line in figure.axes[0].patches)
        2
    """
    return draw_graphs([(title, graph)])


def draw_graphs(graphs: Sequence[tuple[str, NetworkGraph]]) -> "Figure":
    """Draw several graphs side by side, with one legend.

    Args:
        graphs: Titles and graphs, from left to right.
    """
    panels = side_by_side(graphs)
    return draw_panels(panels)


def side_by_side(graphs: Sequence[tuple[str, NetworkGraph]], *, space: float = _SPACE) -> list[Panel]:
    """Lay graphs out next to each other, in points."""
    panels: list[Panel] = []
    left = _SPACE / 2
    heading = _HEADING if any(title for title, _ in graphs) else _SPACE / 2
    for title, graph in graphs:
        layout = lay_out(graph, {node.name: _size(node) for node in graph.nodes})
        needed = max(layout.width, text_width(title, FONT + 1))
        panels.append(Panel(layout, title, left + (needed - layout.width) / 2, heading))
        left += needed + space
    return panels


def draw_panels(panels: Sequence[Panel]) -> "Figure":
    """Draw graphs that have their places."""
    kinds = {node.kind for panel in panels for node in panel.layout.graph.nodes}
    right = max(panel.left + max(panel.layout.width, _title_end(panel)) for panel in panels)
    bottom = max(panel.top + panel.layout.height for panel in panels)
    entries = _legend_entries(kinds)
    columns, rows = _legend_shape([label for label, _ in entries], right)
    width, height = right + _SPACE * 0.6, bottom + _SPACE / 2 + rows * (FONT + 5) + _LEGEND / 2
    figure: Figure = require("matplotlib.figure", extra=EXTRA).Figure(figsize=(width / POINTS, height / POINTS))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0.0, width)
    axes.set_ylim(height, 0.0)
    axes.axis("off")
    for panel in panels:
        _draw(axes, panel)
    figure.legend(
        handles=[handle for _, handle in entries],
        loc="lower center",
        ncols=columns,
        fontsize=FONT,
        frameon=False,
        borderaxespad=0.2,
        handlelength=2.2,
        columnspacing=1.2,
    )
    return figure


def _title_end(panel: Panel) -> float:
    return (panel.layout.width + text_width(panel.title, FONT + 1)) / 2


def _draw(axes: "Axes", panel: Panel) -> None:
    if panel.title:
        middle = panel.left + panel.layout.width / 2
        axes.text(middle, panel.top - 8, panel.title, fontsize=FONT + 1, ha="center", va="bottom", weight="bold")
    for path, box in sorted(panel.layout.frames.items(), key=lambda item: item[0].count(".")):
        _draw_frame(axes, path, panel.layout.graph.groups[path], box.moved(panel.left, panel.top))
    for edge, points in zip(panel.layout.graph.edges, panel.layout.routes, strict=True):
        moved = [(x + panel.left, y + panel.top) for x, y in points]
        _draw_edge(axes, f"edge:{edge.source}:{edge.target}:{'binary' if edge.binary else 'real'}", moved, edge.binary)
    for node in panel.layout.graph.nodes:
        _draw_node(axes, node, panel.box(node.name))


def add_box(axes: "Axes", box: Box, rounding: float, **look: Any) -> None:
    """Add a rectangle whose corners are rounded by so many points."""
    style = f"round,pad=0,rounding_size={rounding:g}"
    make = require("matplotlib.patches", extra=EXTRA).FancyBboxPatch
    axes.add_patch(make((box.left, box.top), box.width, box.height, boxstyle=style, **look))


def _draw_frame(axes: "Axes", path: str, name: str, box: Box) -> None:
    look = {"facecolor": (0.35, 0.45, 0.6, 0.06), "edgecolor": "#9aa7b5", "linewidth": 0.6}
    add_box(axes, box, 4, gid=f"frame:{path}", zorder=0.5 + 0.01 * path.count("."), **look)
    size = min(_DETAIL, _DETAIL * (box.height - 4) / max(text_width(name, _DETAIL), 1.0))
    axes.text(
        box.left + 6.5,
        box.top + box.height / 2,
        name,
        fontsize=size,
        color="#5b6b7c",
        rotation=90,
        ha="center",
        va="center",
    )


def _draw_node(axes: "Axes", node: GraphNode, box: Box) -> None:
    edge = BINARY_COLOR if node.kind in ("sign", "binary") else "#6b7885"
    look = {"facecolor": FILLS[node.kind], "edgecolor": edge, "linewidth": 0.8}
    add_box(
        axes, box, min(box.width, box.height) / 2 if _is_sign(node) else 3, gid=f"node:{node.name}", zorder=3, **look
    )
    second = _second_line(node)
    center, middle = box.middle, box.top + box.height / 2
    above = middle if not second else middle - _DETAIL * 0.55
    axes.text(center, above, node.label, fontsize=FONT, ha="center", va="center", zorder=4)
    if second:
        axes.text(
            center, middle + FONT * 0.55, second, fontsize=_DETAIL, ha="center", va="center", color="#404040", zorder=4
        )


def _draw_edge(axes: "Axes", gid: str, points: list[Point], binary: bool) -> None:
    patches = require("matplotlib.patches", extra=EXTRA)
    x, y = points[-1]
    half, long = _HEAD
    line = _curve([*points[:-1], (x, y - long / 2)])
    order = 2.5 if binary else 2.0
    axes.add_patch(patches.PathPatch(line, fill=False, gid=gid, zorder=order, **edge_style(binary)))
    head = [(x, y), (x - half, y - long), (x + half, y - long)]
    axes.add_patch(patches.Polygon(head, closed=True, color=edge_style(binary)["color"], linewidth=0, zorder=order))


def edge_style(binary: bool) -> dict[str, Any]:
    """Return the style of an edge."""
    if binary:
        return {"color": BINARY_COLOR, "linewidth": 1.7, "linestyle": (0, (3.0, 1.2))}
    return {"color": REAL_COLOR, "linewidth": 0.8, "linestyle": "-"}


def _curve(points: list[Point]) -> Any:
    """Make a path: straight down where two points are above each other, an S between others."""
    path = require("matplotlib.path", extra=EXTRA).Path
    vertices, codes = [points[0]], [path.MOVETO]
    for x, y in points[1:]:
        before = vertices[-1]
        if abs(before[0] - x) < 0.05 or abs(before[1] - y) < 0.05:
            if abs(before[1] - y) < 0.05:
                continue
            straight = len(codes) > 1 and codes[-1] == path.LINETO and abs(vertices[-2][0] - x) < 0.05
            if straight:
                vertices[-1] = (x, y)
                continue
            vertices.append((x, y))
            codes.append(path.LINETO)
        else:
            half = (before[1] + y) / 2
            vertices += [(before[0], half), (x, half), (x, y)]
            codes += [path.CURVE4] * 3
    return path(vertices, codes)


def _is_sign(node: GraphNode) -> bool:
    """Whether a node is a mathematical sign, which stands in a circle."""
    return node.kind == "elementwise" and len(node.label) == 1


def _second_line(node: GraphNode) -> str:
    if node.kind in ("input", "output", "weights") or (node.kind == "pool" and len(node.shape) == 3):
        return "×".join(map(str, node.shape))
    if node.kind == "group":
        return ", ".join(filter(None, ("×".join(map(str, node.shape)), node.detail)))
    return node.detail


def _size(node: GraphNode) -> tuple[float, float]:
    if _is_sign(node):
        return 14.0, 14.0
    second = _second_line(node)
    width = max(text_width(node.label, FONT), text_width(second, _DETAIL), 20.0)
    return width + 2 * _PAD, FONT + 2 * _PAD + (_DETAIL + 1.5 if second else 0.0)


@lru_cache(maxsize=4096)
def text_width(text: str, size: float) -> float:
    """Return the width of a text, in points."""
    if not text:
        return 0.0
    path = require("matplotlib.textpath", extra=EXTRA).TextPath((0.0, 0.0), text, size=size)
    return float(path.get_extents().x1)


def _legend_entries(kinds: set[Kind]) -> list[tuple[str, Any]]:
    lines = require("matplotlib.lines", extra=EXTRA)
    patches = require("matplotlib.patches", extra=EXTRA)
    labels = {True: "1-bit values (−1, +1)", False: "real values"}
    entries = [(label, lines.Line2D([], [], label=label, **edge_style(binary))) for binary, label in labels.items()]
    for label, of in _MEANINGS.items():
        if kinds & set(of):
            edge = BINARY_COLOR if "binary" in of else "#6b7885"
            entries.append((label, patches.Patch(facecolor=FILLS[of[0]], edgecolor=edge, linewidth=0.8, label=label)))
    return entries


def _legend_shape(labels: list[str], width: float) -> tuple[int, int]:
    widest = max(text_width(label, FONT) for label in labels) + 4.6 * FONT
    columns = max(1, min(len(labels), int(width // widest)))
    return columns, -(-len(labels) // columns)
