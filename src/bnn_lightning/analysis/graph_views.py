"""Graphs of convolution modules, and of a network at three levels: backbone, block, convolution module."""

from collections.abc import Sequence

import torch
from torch import nn

from bnn_lightning.analysis.graph_blocks import block_title, create_block
from bnn_lightning.analysis.trace import CONTAINERS, trace_graph
from bnn_lightning.layers.module_utils import binary_layers
from bnn_lightning.models.network_graph import NetworkGraph, ancestors, collapsed, with_repeats, without_weights

MODULES = ("xnornet_module", "real2binary_module", "bnext_module")


def module_graphs(
    names: Sequence[str] = MODULES, *, planes: int = 64, size: int = 16
) -> list[tuple[str, NetworkGraph]]:
    """Return titles and graphs of convolution modules, without their weights: (a), (b), (c) ...

    Args:
        names: Names of `list_blocks()`.
        planes: Channels of input and output.
        size: Height and width of the input.
    """
    found = []
    for index, name in enumerate(names):
        graph = trace_graph(create_block(name, planes, planes), torch.randn(1, planes, size, size))
        found.append((f"({chr(ord('a') + index)}) {block_title(name).partition(':')[0]}", without_weights(graph)))
    return found


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
