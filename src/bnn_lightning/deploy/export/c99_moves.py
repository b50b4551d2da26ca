"""Moves, pools and reductions of a graph as calls of the functions of `portable.c`."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from bnn_lightning.deploy.export.c99_text import C99Error, number, size, window
from bnn_lightning.deploy.export.c99_writer import Reads, Rule, Writer
from bnn_lightning.deploy.ir.graph import Node, Value
from bnn_lightning.deploy.planner.conv import fixed_window
from bnn_lightning.deploy.planner.lowering import Sums
from bnn_lightning.deploy.planner.reduce import over_map
from bnn_lightning.deploy.planner.typed_graph import TypedGraph

Dim = tuple[int, int]  # size and stride
_MOST = 3  # dimensions that a function of C goes through


# Moves


def _same_order(c: Writer, place: int, node: Node) -> None:
    """Another shape of elements in the same order: nothing to compute."""
    c.alias(place, node.values()[0])


def _moved(c: Writer, place: int, node: Node) -> None:
    """Elements in another order, or some of them."""
    source, shape = c.value(node.inputs[0])
    dims, first = _places(node, _dense(shape), c.shapes[place])
    merged = _merged(dims, node)
    if not first and [dim for dim in merged if dim[0] != 1] in ([], [(math.prod(shape), 1)]):
        c.alias(place, node.values()[0])
        return
    c.used.add("operand")
    c.call("gather", _operand(f"{source} + {first}", merged), c.result(place), _size(merged))


def _places(node: Node, dims: list[Dim], out: Sequence[int]) -> tuple[list[Dim], int]:
    """Return sizes and strides of a result in the memory of its input, and the place of its first element."""
    match node.operation:
        case "permute":
            return [dims[dim] for dim in node["dims"]], 0
        case "transpose":
            one, other = node["dim0"], node["dim1"]
            dims[one], dims[other] = dims[other], dims[one]
            return dims, 0
        case "expand":
            dims = [(1, 0)] * (len(out) - len(dims)) + dims
            return [(new, step if old == new else 0) for new, (old, step) in zip(out, dims, strict=True)], 0
    dim = node["dim"] % len(dims)
    whole, stride = dims[dim]
    if node.operation == "select":
        return dims[:dim] + dims[dim + 1 :], node["index"] % whole * stride
    start, _, step = slice(node["start"], node["end"], node["step"]).indices(whole)
    return [*dims[:dim], (out[dim], stride * step), *dims[dim + 1 :]], start * stride


def _dense(shape: Sequence[int]) -> list[Dim]:
    return [(one, math.prod(shape[at + 1 :])) for at, one in enumerate(shape)]


def _merged(dims: Sequence[Dim], node: Node) -> list[Dim]:
    """Return three dimensions, where neighbors that are read in one stride are one.

    Raises:
        C99Error: There are more.
    """
    found: list[Dim] = []
    for one, step in (dim for dim in dims if dim[0] != 1):
        if found and found[-1][1] == one * step:
            found[-1] = (found[-1][0] * one, step)
        else:
            found.append((one, step))
    if len(found) > _MOST:
        raise C99Error(
            f"`{node.operation}` is not known in C: it goes through {len(found)} dimensions that cannot be joined, of "
            f"the sizes {[one for one, _ in found]}, and C goes through {_MOST}."
        )
    return [(1, 0)] * (_MOST - len(found)) + found


def _operand(values: str, dims: Sequence[Dim]) -> str:
    return f"(struct bnn_operand){{{values}, {', '.join(str(step) for _, step in dims)}}}"


def _size(dims: Sequence[Dim]) -> str:
    return size((1, *(one for one, _ in dims)))


def _pad(c: Writer, place: int, node: Node) -> None:
    source, shape = c.value(node.inputs[0])
    if node["mode"] != "constant":
        raise C99Error(f"`pad` with mode={node['mode']} is not known in C, which pads with one value: mode=constant.")
    padding: list[int] = node["padding"]
    left, _, top, _, front, behind, *others = [*padding, *[0] * 6]
    if any(others) or ((front or behind) and math.prod(shape[:-3]) != 1):
        raise C99Error(
            f"`pad` of {shape} by {node['padding']} is not known in C: it pads two dimensions, or three of one map."
        )
    value = number(node["value"] or 0)
    # All dimensions before the last two are channels.
    sizes = [size((1, math.prod(item[:-2]), *(1, *item)[-2:])) for item in (shape, c.shapes[place])]
    c.call("pad", source, sizes[0], front, top, left, value, c.result(place), sizes[1])


def _cat(c: Writer, place: int, node: Node) -> None:
    """Parts side by side: rows of each, as far apart as rows of the result."""
    out, shape = c.result(place), c.shapes[place]
    dim = node["dim"] % len(shape)
    rows, inner, first = math.prod(shape[:dim]), math.prod(shape[dim + 1 :]), 0
    for part in node.inputs:
        source, own = c.value(part)
        length = own[dim] * inner
        c.call("copy", source, rows, length, f"{out} + {first}", shape[dim] * inner)
        first += length


# Reductions and pools


def _over_map(c: Writer, place: int, node: Node) -> None:
    """The average or the sum of each channel, or over other dimensions."""
    if over_map(c.typed, place) is None:
        _reduced(c, place, node)
        return
    (value,) = _over_map_reads(c.typed, place)
    _, channels, height, width = c.shapes[value]
    factor = np.float32(1 if node.operation == "sum" else 1 / (height * width))
    source = c.value(Value(value))[0]
    sizes = size((1, channels, height, width))
    c.call("mean", source, sizes, c.group_of(value), number(factor), c.result(place))


def _over_map_reads(graph: TypedGraph, place: int) -> Iterable[int]:
    """Return what is averaged: averages over 2x2 before fall out, as they do in packed files."""
    (value,) = graph.graph.nodes[place - 1].values()
    lowering = over_map(graph, place)
    if lowering is None:
        return [value]
    (sums,) = lowering.reads
    assert isinstance(sums, Sums)
    if graph.map_shape(Value(value)) != sums.shape:
        (value,) = graph.graph.nodes[value - 1].values()
    return [value]


def _reduced(c: Writer, place: int, node: Node) -> None:
    """The average, the sum or the maximum over any dimensions."""
    if node.operation.startswith("adaptive"):
        _adaptive_pool(c, place, node)
        return
    source, shape = c.value(node.inputs[0])
    dims, over = _dense(shape), {dim % len(shape) for dim in node["dims"]}
    kept = _merged([dim for at, dim in enumerate(dims) if at not in over], node)
    added = _merged([dim for at, dim in enumerate(dims) if at in over], node)
    number_of = math.prod(one for one, _ in added)
    factor = {"mean": np.float32(1 / number_of), "sum": 1, "amax": 0}[node.operation]
    c.used.add("operand")
    operands = _operand(source, kept), _operand("0", added)
    c.call("reduce", *operands, _size(added), number(factor), c.result(place), _size(kept))


def _adaptive_pool(c: Writer, place: int, node: Node) -> None:
    """A pool whose windows have one size and one stride."""
    source, shape = c.map_of(node)
    out = c.shapes[place]
    sides = zip(shape[2:], out[2:], strict=True)
    windows = [found for found in (fixed_window(*side) for side in sides) if found is not None]
    if len(windows) != 2:
        raise C99Error(
            f"`{node.operation}` of {shape[2:]} to {out[2:]} is not known in C: its windows differ in size or distance."
        )
    kernel, stride = zip(*windows, strict=True)
    divisor = 0 if "max" in node.operation else -1
    moves = window(kernel, stride, (0, 0), (1, 1))
    c.call("pool", source, size(shape), moves, divisor, c.result(place), size(out))


def _avg_pool2d(c: Writer, place: int, node: Node) -> None:
    if (node["divisor_override"] or 1) < 0:
        raise C99Error(f"`avg_pool2d` with divisor_override={node['divisor_override']} is not known in C.")
    padded = -2 if node["count_include_pad"] else -1
    _pool(c, place, node, (1, 1), node["divisor_override"] or padded)


def _max_pool2d(c: Writer, place: int, node: Node) -> None:
    _pool(c, place, node, node["dilation"], 0)


def _pool(c: Writer, place: int, node: Node, dilation: Sequence[int], divisor: int) -> None:
    source, shape = c.map_of(node)
    moves = window(node["kernel_size"], node["stride"], node["padding"], dilation)
    c.call("pool", source, size(shape), moves, divisor, c.result(place), size(c.shapes[place]))


def _softmax(c: Writer, place: int, node: Node) -> None:
    source, shape = c.value(node.inputs[0])
    dim = node["dim"] % len(shape)
    c.used |= {"exponential", "exponentials"}
    sizes = math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1 :])
    c.call(node.operation, source, *sizes, c.result(place, node.values()))


_AVERAGES = ("mean", "sum", "adaptive_avg_pool2d")
RULES: dict[str, Rule] = {
    **dict.fromkeys(("reshape", "unsqueeze", "squeeze"), _same_order),
    **dict.fromkeys(("select", "slice", "transpose", "permute", "expand"), _moved),
    **dict.fromkeys(_AVERAGES, _over_map),
    **dict.fromkeys(("amax", "adaptive_max_pool2d"), _reduced),
    **dict.fromkeys(("softmax", "log_softmax"), _softmax),
    "avg_pool2d": _avg_pool2d,
    "cat": _cat,
    "max_pool2d": _max_pool2d,
    "pad": _pad,
}
READS: dict[str, Reads] = dict.fromkeys(_AVERAGES, _over_map_reads)
