"""Construction of a binary network: convolution modules side by side; backbone, block and processor, each enlarged."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from bnn_lightning.analysis.graph_blocks import block_title, create_block
from bnn_lightning.analysis.trace import CONTAINERS, trace_graph
from bnn_lightning.figures.graph_figures import Panel, draw_graphs, draw_panels, side_by_side
from bnn_lightning.figures.layout import Box
from bnn_lightning.figures.style import EXTRA
from bnn_lightning.layers.module_utils import binary_layers
from bnn_lightning.models.network_graph import NetworkGraph, ancestors, collapsed, with_repeats, without_weights
from bnn_lightning.utils.optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODULES = ("xnornet_module", "real2binary_module", "bnext_module")
_SPACE = 28.0


def draw_modules(names: Sequence[str] = MODULES, *, planes: int = 64, size: int = 16) -> "Figure":
    """Draw convolution modules side by side: (a), (b), (c) ...

    Args:
        names: Of `list_blocks()`.
        planes: Channels of input and output.
        size: Height and width of the input.

    Returns:
        The figure; three modules fit the width of a page.
    """
    return draw_graphs(list(module_graphs(names, planes=planes, size=size)))


def module_graphs(
    names: Sequence[str] = MODULES, *, planes: int = 64, size: int = 16
) -> list[tuple[str, NetworkGraph]]:
    """Return titles and graphs of convolution modules, without their weights: see `draw_modules`."""
    found = []
    for index, name in enumerate(names):
        graph = trace_graph(create_block(name, planes, planes), torch.randn(1, planes, size, size))
        found.append((f"({chr(ord('a') + index)}) {block_title(name).partition(':')[0]}", without_weights(graph)))
    return found


def draw_pipeline(network: nn.Module, *, in_channels: int = 3, image_size: int, title: str = "Backbone") -> "Figure":
    """Draw a network from three distances: its backbone, a block of it, and the block's convolution module.

    Args:
        network: With binary layers.
        in_channels: Channels of the images.
        image_size: Their height and width.
        title: Of the backbone.

    Returns:
        The figure.

    Raises:
        ValueError: The network has no binary layer.
    """
    example = torch.rand(1, in_channels, image_size, image_size)
    (backbone, block, module), paths = pipeline_graphs(network, example)
    names = [type(network.get_submodule(path)).__name__ for path in paths]
    panels = side_by_side([(title, backbone), (names[0], block), (names[1], module)], space=_SPACE)
    figure = draw_panels(panels)
    (axes,) = figure.axes
    _enlarge(axes, panels[0].box(_standing_for(backbone, paths[0])), panels[1])
    inner = paths[1].removeprefix(f"{paths[0]}.")
    _enlarge(axes, panels[1].box(inner), panels[2])
    return figure


def pipeline_graphs(network: nn.Module, example: torch.Tensor) -> tuple[list[NetworkGraph], list[str]]:
    """Return the graphs of backbone, block and convolution module, and the paths of the latter two.

    The block is the one of the most operations, the first of these; its convolution module is what holds its first
    binary layer, or this layer itself where the block holds it.

    Args:
        network: With binary layers.
        example: Images, (N, C, H, W).

    Raises:
        ValueError: The network has no binary layer, or none within a block.
    """
    whole = trace_graph(network, example)
    if not binary_layers(network):
        raise ValueError(f"{type(network).__name__} has no binary layer, and so no block of them to draw.")
    tops: dict[str, list[str]] = {}
    for node in whole.nodes:
        path = next((p for p in ancestors(node.group, whole.groups) if not _is_container(network, p)), None)
        if path is not None:
            tops.setdefault(path, []).append(node.name)
    if not (tops := {path: of for path, of in tops.items() if _is_block(network.get_submodule(path))}):
        raise ValueError(f"{type(network).__name__} has binary layers, but no blocks of them to enlarge.")
    shapes = {node.name: node.shape for node in whole.nodes}
    by_size = sorted(tops, key=lambda path: -len(tops[path]))
    modules = {path: _module_of(network, path) for path in by_size}
    # A module that is given a second tensor of another shape cannot be drawn with one.
    alike = (path for path in by_size if len({shapes[n] for n in _entering(whole, _inside(whole, modules[path]))}) == 1)
    block = next(alike, by_size[0])
    module = modules[block]
    backbone = with_repeats(collapsed(whole, lambda path, _: path in tops))
    entering = {block: _entering(whole, tops[block])[0], module: _entering(whole, _inside(whole, module))[0]}
    inputs = {path: torch.randn(1, *shapes[name]) for path, name in entering.items()}
    of_block = collapsed(
        trace_graph(network.get_submodule(block), inputs[block]),
        lambda path, name: name == type(network.get_submodule(module)).__name__,
    )
    return [backbone, of_block, trace_graph(network.get_submodule(module), inputs[module])], [block, module]


def _module_of(network: nn.Module, block: str) -> str:
    first = next(iter(binary_layers(network.get_submodule(block))))
    module = f"{block}.{first}".rpartition(".")[0]
    return f"{block}.{first}" if module == block else module


def _entering(graph: NetworkGraph, inside: Sequence[str]) -> list[str]:
    """Return the nodes outside whose outputs go inside."""
    within = set(inside)
    return [edge.source for edge in graph.edges if edge.target in within and edge.source not in within]


def _inside(graph: NetworkGraph, path: str) -> list[str]:
    return [node.name for node in graph.nodes if path in ancestors(node.group, graph.groups) or node.name == path]


def _is_block(module: nn.Module) -> bool:
    """Whether a module holds binary layers, and is none itself."""
    return "" not in (names := binary_layers(module)) and bool(names)


def _is_container(network: nn.Module, path: str) -> bool:
    return isinstance(network.get_submodule(path), CONTAINERS)


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
    frame = patches.FancyBboxPatch(
        (left, top), width, height, boxstyle="round,pad=0,rounding_size=6", fill=False, edgecolor=color, linewidth=0.9
    )
    axes.add_patch(frame)
    corners = [(box.right, box.top), (left, top + 6), (left, top + height - 6), (box.right, box.bottom)]
    # Behind everything: it passes under what stands between.
    axes.add_patch(patches.Polygon(corners, closed=True, facecolor="#faf5ec", edgecolor="none", zorder=0.1))
    for start, end in zip(corners[::3], corners[1:3], strict=True):
        (x, y), (u, v) = start, end
        axes.plot([x, u], [y, v], color=color, linewidth=0.5, alpha=0.6, zorder=0.2)
