"""Figure of a network at three levels: backbone, block and convolution module."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnn_lightning.figures.graph_figures import Panel, add_box, draw_panels, side_by_side
from bnn_lightning.figures.layout import Box
from bnn_lightning.figures.style import EXTRA
from bnn_lightning.models.network_graph import NetworkGraph
from bnn_lightning.utils.optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SPACE = 28.0


def draw_pipeline(graphs: Sequence[NetworkGraph], paths: Sequence[str], titles: Sequence[str]) -> "Figure":
    """Draw a network from three distances: its backbone, a block of it, and the block's convolution module.

    Args:
        graphs: Graphs of backbone, block and module, as `analysis.pipeline_graphs` returns them.
        paths: Paths of block and module in the network.
        titles: One a graph.
    """
    panels = side_by_side(list(zip(titles, graphs, strict=True)), space=_SPACE)
    figure = draw_panels(panels)
    (axes,) = figure.axes
    _enlarge(axes, panels[0].box(_standing_for(graphs[0], paths[0])), panels[1])
    inner = paths[1].removeprefix(f"{paths[0]}.")
    _enlarge(axes, panels[1].box(inner), panels[2])
    return figure


def _standing_for(graph: NetworkGraph, path: str) -> str:
    """Return the node that stands for a module, itself or the first of its repeats."""
    names = [node.name for node in graph.nodes if node.kind == "group"]
    before = [name for name in names if _order(name) <= _order(path)]
    return path if path in names else before[-1]


def _order(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]


def _enlarge(axes: "Axes", box: Box, panel: Panel) -> None:
    """Draw a frame around a panel, and lines to it from the box that it enlarges."""
    patches = require("matplotlib.patches", extra=EXTRA)
    left, top = panel.left - 8, panel.top - 6
    width, height = panel.layout.width + 16, panel.layout.height + 12
    color = "#8a6d3b"
    add_box(axes, Box(left, top, width, height), 6, fill=False, edgecolor=color, linewidth=0.9)
    corners = [(box.right, box.top), (left, top + 6), (left, top + height - 6), (box.right, box.bottom)]
    # Behind everything: it passes under what stands between.
    axes.add_patch(patches.Polygon(corners, closed=True, facecolor="#faf5ec", edgecolor="none", zorder=0.1))
    for start, end in zip(corners[::3], corners[1:3], strict=True):
        (x, y), (u, v) = start, end
        axes.plot([x, u], [y, v], color=color, linewidth=0.5, alpha=0.6, zorder=0.2)
