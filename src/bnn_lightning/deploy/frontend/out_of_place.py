"""Rewrite exported graphs to what a second trace would give, without the trace.

`ExportedProgram.run_decompositions` takes more than half of the time that a network needs to be captured, and does
two things here: operations in place become others, and batch norm gets the form of inference. Each is a local change of
a node, where nothing else can see the tensor that an operation overwrites. Sizes are written out in either way.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

_ATEN = torch.ops.aten
_VIEWS = (_ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.reshape.default)
# Composites of torch that always give a tensor of their own.
_FRESH = (
    _ATEN.batch_norm.default,
    _ATEN.conv2d.default,
    _ATEN.linear.default,
    _ATEN.max_pool2d.default,
    _ATEN.prelu.default,
)
# A second trace leaves these as they are, too.
_KEPT = (*_FRESH, *_VIEWS, _ATEN.adaptive_avg_pool2d.default, _ATEN.pad.default, _ATEN.sym_size.int)


def write_sizes(graph: fx.Graph) -> None:
    """Write out the sizes of views and what is squeezed, in place, and erase the arithmetic that gave them.

    The size that grows with the number of images is -1, and is not squeezed, although one image has the size 1.

    Args:
        graph: Graph of `torch.export.export`.
    """
    for node in graph.nodes:
        if node.target in (*_VIEWS, _ATEN.flatten.using_ints):
            sizes = [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]
            node.target, node.args, node.kwargs = _ATEN.view.default, (node.args[0], sizes), {}
        elif node.target is _ATEN.squeeze.default:
            shape = node.args[0].meta["val"].shape
            dims = [dim for dim, size in enumerate(shape) if isinstance(size, int) and size == 1]
            node.target, node.args = _ATEN.squeeze.dims, (node.args[0], dims)
    for node in reversed(list(graph.nodes)):
        if not node.users and isinstance(node.meta.get("val"), torch.SymInt):
            graph.erase_node(node)


def out_of_place(graph: fx.Graph, is_known: Callable[[fx.Node], bool]) -> bool:
    """Rewrite a graph of `torch.export.export` in place, to operations that readers know.

    Args:
        graph: Graph in inference, with in-place operations and composites.
        is_known: Whether a node can be read.

    Returns:
        False if it has something else; the graph is then of no use.
    """
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if _computes_nothing(node):
            if node.users:
                node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif not (_is_rewritten(node) and is_known(node)):
            return False
    graph.eliminate_dead_code()
    return True


def _computes_nothing(node: fx.Node) -> bool:
    """Whether a node gives its input, or asserts what was so when it was traced."""
    if node.target is _ATEN.to.dtype:
        source = node.args[0]
        return isinstance(source, fx.Node) and bool(source.meta["val"].dtype == node.meta["val"].dtype)
    if node.target is _ATEN.dropout.default:
        return node.args[2] is False
    return node.target is _ATEN._assert_tensor_metadata.default


def _is_rewritten(node: fx.Node) -> bool:
    target: Any = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return True
    if target._schema.is_mutable:
        return _without_overwriting(node, target)
    if target is _ATEN.batch_norm.default and len(node.args) == 9:
        x, weight, bias, mean, variance, training, momentum, eps, _ = node.args
        node.target = _ATEN._native_batch_norm_legit_no_training.default
        node.args = (x, weight, bias, mean, variance, momentum, eps)
        return training is False
    return target in _KEPT or not _is_composite(target)


def _without_overwriting(node: fx.Node, target: torch._ops.OpOverload) -> bool:
    """Exchange an operation in place, if nothing but its result sees the tensor that it overwrites."""
    source = node.args[0]
    name = target._schema.name.removeprefix("aten::")
    packet = getattr(_ATEN, name.removesuffix("_"), None) if name.endswith("_") else None
    other = getattr(packet, target._overloadname, None)
    if other is None or not isinstance(source, fx.Node) or set(source.users) != {node} or not _is_fresh(source):
        return False
    node.target = other
    return [argument.name for argument in other._schema.arguments] == [
        argument.name for argument in target._schema.arguments
    ]


def writes_in_place(graph: fx.Graph) -> bool:
    """Whether an operation overwrites a tensor: which others share its memory may depend on memory formats.

    Not whether others do share it: of `contiguous`, which shares memory in one format, traces hold nothing.

    Args:
        graph: Graph of `torch.export.export`, before it is rewritten.
    """
    targets = (node.target for node in graph.nodes)
    return any(isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable for target in targets)


def _is_fresh(node: fx.Node) -> bool:
    """Whether a node gives a tensor that shares memory with no other."""
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return False
    if target is _ATEN._native_batch_norm_legit_no_training.default:  # rewritten a moment ago
        return True
    shares = any(value.alias_info is not None for value in target._schema.returns)
    return not shares and (target in _FRESH or not _is_composite(target))


def _is_composite(target: torch._ops.OpOverload) -> bool:
    name = f"{target._schema.name}.{target._schema.overload_name}".removesuffix(".")
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd"))
