"""Layers and functions of a graph as calls of the functions of `portable.c`."""

import math
from collections.abc import Iterable

import numpy as np

from bnn_lightning.deploy.export.c99_moves import READS as MOVING_READS
from bnn_lightning.deploy.export.c99_moves import RULES as MOVING_RULES
from bnn_lightning.deploy.export.c99_text import C99Error, number, sign_words, size, window, word_size
from bnn_lightning.deploy.export.c99_writer import Reads, Rule, Writer
from bnn_lightning.deploy.format.layouts import to_layout
from bnn_lightning.deploy.ir.graph import Array, ConstantRef, Input, Node, Value
from bnn_lightning.deploy.ir.operations import EPILOGUE
from bnn_lightning.deploy.planner.linear import LinearRows, gate_of, linear_of
from bnn_lightning.deploy.planner.operands import operand
from bnn_lightning.deploy.planner.typed_graph import TypedGraph

# Convolutions and linear layers


def _conv2d(c: Writer, place: int, node: Node) -> None:
    source, shape = c.map_of(node)
    kernel = c.stored(node.inputs[1]).shape[2:]
    moves = window(kernel, node["stride"], node["padding"], node["dilation"])
    weight, bias = c.tensor(node.inputs[1]), c.tensor(node.input(2))
    out = size(c.shapes[place])
    c.call("conv2d", source, size(shape), weight, bias, moves, node["groups"], c.result(place), out)


def _byte_conv2d(c: Writer, place: int, node: Node) -> None:
    raise C99Error("`byte_conv2d`, a stem on bytes, is not known in C: take a file with stem=fp32.")


def _linear(c: Writer, place: int, node: Node) -> None:
    (value,) = _linear_reads(c.typed, place)
    source, shape = c.value(Value(value))
    item, function, bias = node.inputs[1], "linear", "0"
    constant, folded = c.stored(item), _with_affine(c.typed, place)
    rows = math.prod(shape) // constant.shape[1]
    if folded is not None:
        weight = c.constant(f"w{place}", "float", folded.layer.weight, constant.name)
        bias = c.constant(f"v{place}", "float", np.asarray(folded.layer.bias, np.float32), "bias")
    elif constant.dtype == "bits":
        function, signs = "sign_linear", to_layout(constant.array, "bits", "bits")
        weight = c.constant(f"b{c.ref(item).index}", "uint8_t", signs, constant.name)
    else:
        weight = c.tensor(item)
    bias = c.tensor(node.input(2)) if folded is None else bias
    c.call(function, source, rows, constant.shape[1], weight, bias, c.result(place), c.shapes[place][-1])


def _with_affine(graph: TypedGraph, place: int) -> LinearRows | None:
    """Return a linear layer that has an affine map before it in its weights of floats, as packed files do."""
    node = graph.nodes[place - 1]
    weight, found = node.inputs[1], linear_of(graph, place)
    floats = isinstance(weight, ConstantRef) and graph.graph.constants[weight.index].dtype == "f32"
    return found if found is not None and floats and [found.source] != node.values() else None


def _linear_reads(graph: TypedGraph, place: int) -> Iterable[int]:
    found = _with_affine(graph, place)
    return graph.graph.nodes[place - 1].values() if found is None else [found.source]


def _binary_conv2d(c: Writer, place: int, node: Node) -> None:
    source, shape = c.map_of(node)
    signs, groups, residual = c.stored(node["signs"]), node["groups"], node.input(1)
    kernel = signs.shape
    word = word_size(kernel[1])
    kind = f"uint{word}_t"
    weight = c.constant(f"b{node['signs'].index}", kind, sign_words(signs.array, word), signs.name)
    bits = c.scratch(place, "bits", groups * shape[2] * shape[3] * -(-kernel[1] // word) * word // 8)
    top, _, left, _ = node["padding"]
    bounds = (node["low"], node["high"])
    epilogue = [
        *(c.tensor(node[part]) for part in EPILOGUE),
        "0" if residual is None else c.value(residual)[0],
        *("0" if bound is None else number(bound) for bound in bounds),
        *(str(int(bound is not None)) for bound in bounds),
    ]
    # The input is not needed any more once it is packed, nor is the addend at a place once it is added there.
    x, *added = node.values()
    c.free_early(place, x, *added)
    out = c.result(place, added, late=True)
    c.call(f"pack {word}", source, size(shape), groups, c.tensor(node["threshold"]), f"({kind} *){bits}")
    c.used |= {"count", "binary"}
    moves = window(kernel[2:], node["stride"], (top, left), node["dilation"])
    c.call(
        f"binary_conv {word}",
        *(f"(const {kind} *){bits}", size(shape), weight, moves, groups, node["pad_value"]),
        *(f"(struct bnn_epilogue){{{', '.join(epilogue)}}}", out, size(c.shapes[place])),
    )


# Element by element


def _affine(c: Writer, place: int, node: Node) -> None:
    source, shape = c.map_of(node)
    scale, shift = (c.tensor(item) for item in node.inputs[1:])
    c.call("affine", source, shape[1], math.prod(shape[2:]), scale, shift, c.result(place, node.values()))


def _prelu(c: Writer, place: int, node: Node) -> None:
    slopes = math.prod(c.stored(node.inputs[1]).shape)
    _prelu_by(c, place, node, c.tensor(node.inputs[1]), slopes)


def _leaky_relu(c: Writer, place: int, node: Node) -> None:
    slope = np.full(1, node["negative_slope"], np.float32)
    _prelu_by(c, place, node, c.constant(f"n{place}", "float", slope, "negative_slope"), 1)


def _prelu_by(c: Writer, place: int, node: Node, slope: str, slopes: int) -> None:
    source, shape = c.map_of(node) if slopes > 1 else c.value(node.inputs[0])
    channels = shape[1] if len(shape) > 1 else 1
    result = c.result(place, node.values())
    c.call("prelu", source, channels, math.prod(shape) // channels, slope, slopes, result)


def _clamp(c: Writer, place: int, node: Node) -> None:
    source, shape = c.value(node.inputs[0])
    low, high = node["low"], node["high"]
    bounds = (low is not None) + 2 * (high is not None), number(low or 0), number(high or 0)
    c.call("clamp", source, math.prod(shape), *bounds, c.result(place, node.values()))


def _relu(c: Writer, place: int, node: Node) -> None:
    source, shape = c.value(node.inputs[0])
    c.call("relu", source, math.prod(shape), c.result(place, node.values()))


def _function(c: Writer, place: int, node: Node) -> None:
    if node.operation == "sigmoid" and gate_of(c.typed, place) is not None:
        _gate(c, place, node)
        return
    source, shape = c.value(node.inputs[0])
    c.used |= {node.operation, *(["exponential"] if node.operation in ("sigmoid", "tanh", "silu") else [])}
    c.call("map", source, math.prod(shape), f"bnn_{node.operation}", c.result(place, node.values()))


_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}


def _arithmetic(c: Writer, place: int, node: Node) -> None:
    """Two operands of any shapes that are repeated to one of up to four dimensions."""
    shape = c.shapes[place]
    if len(shape) > 4 or math.prod(shape[:-3]) != 1:
        raise C99Error(f"`{node.operation}` of the shape {shape} is not known in C.")
    out = (1,) * (4 - len(shape)) + shape
    one, other = (_operand(c, place, item, out) for item in (*node.inputs, None)[:2])
    whole = [v for v in node.values() if c.shapes[v] == shape]
    c.used.add("operand")
    c.call("arithmetic", one, f"'{_SIGNS[node.operation]}'", other, c.result(place, whole), size(out))


def _operand(c: Writer, place: int, item: Input | None, out: tuple[int, ...]) -> str:
    values: Array | None = None
    if item is None:
        values = np.float32(c.graph.nodes[place - 1]["other"]).reshape(1)
    elif (found := operand(c.typed, item)) is not None and found.number is None:
        values = found.values
    if values is not None:
        key = f"t{item.index}" if isinstance(item, ConstantRef) else f"n{place}"
        name, shape = c.constant(key, "float", values.astype(np.float32), "values of arithmetic"), values.shape
    else:
        assert isinstance(item, Value)
        name, shape = c.value(item)
    shape = (1,) * (4 - len(shape)) + shape[-4:]
    strides = [0 if shape[i] == 1 else math.prod(shape[i + 1 :]) for i in (1, 2, 3)]
    return f"(struct bnn_operand){{{name}, {', '.join(map(str, strides))}}}"


def _arithmetic_reads(graph: TypedGraph, place: int) -> Iterable[int]:
    for item in graph.graph.nodes[place - 1].inputs:
        found = operand(graph, item)
        if isinstance(item, Value) and (found is None or found.number is not None):
            yield item.number


# Gates


def _gate(c: Writer, place: int, node: Node) -> None:
    found = gate_of(c.typed, place)
    assert found is not None
    excite = _before(c, node)
    squeeze = _before(c, _before(c, excite))
    own, other = c.value(Value(found.own))[0], "0" if found.other is None else c.value(Value(found.other))[0]
    mix, channels = found.layer.mix, c.stored(squeeze.inputs[1]).shape[1]
    blend = "0" if mix is None else c.constant(f"m{place}", "float", mix.astype(np.float32), "blend of averages")
    dense = [_dense(c, conv) for conv in (squeeze, excite)]
    hidden = c.stored(squeeze.inputs[1]).shape[0]
    work = [c.scratch(place, name, 4 * items) for name, items in (("means", channels), ("hidden", hidden))]
    c.used |= {"exponential", "sigmoid"}
    c.call("gate", own, other, blend, channels, *dense, *work, c.result(place))


def _before(c: Writer, node: Node) -> Node:
    found = c.typed.node_of(node.inputs[0])
    assert found is not None
    return found


def _dense(c: Writer, conv: Node) -> str:
    outputs = c.stored(conv.inputs[1]).shape[0]
    return f"(struct bnn_dense){{{c.tensor(conv.inputs[1])}, {c.tensor(conv.input(2))}, {outputs}}}"


def _function_reads(graph: TypedGraph, place: int) -> Iterable[int]:
    found = gate_of(graph, place)
    return graph.graph.nodes[place - 1].values() if found is None else found.reads


_MAPS = ("sigmoid", "tanh", "hardsigmoid", "hardswish", "silu", "gelu", "neg")
RULES: dict[str, Rule] = {
    **MOVING_RULES,
    **dict.fromkeys(_MAPS, _function),
    **dict.fromkeys(_SIGNS, _arithmetic),
    "affine": _affine,
    "binary_conv2d": _binary_conv2d,
    "byte_conv2d": _byte_conv2d,
    "clamp": _clamp,
    "conv2d": _conv2d,
    "leaky_relu": _leaky_relu,
    "linear": _linear,
    "prelu": _prelu,
    "relu": _relu,
}
READS: dict[str, Reads] = {
    **MOVING_READS,
    **dict.fromkeys(_SIGNS, _arithmetic_reads),
    "linear": _linear_reads,
    "sigmoid": _function_reads,
}
