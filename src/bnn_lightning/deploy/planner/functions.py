"""Lowering of functions that no other kernel computes in passing: of each value by itself, and of classes."""

import math

from bnn_lightning.deploy.ir.graph import Node, Value
from bnn_lightning.deploy.kernels.abi import Function
from bnn_lightning.deploy.kernels.call import Count, KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.functions import apply_function, softmax
from bnn_lightning.deploy.planner.lowering import Lowering, Places
from bnn_lightning.deploy.planner.typed_graph import TypedGraph
from bnn_lightning.deploy.planner.views import memory_strides

FUNCTIONS = {
    "sigmoid": Function.SIGMOID,
    "tanh": Function.TANH,
    "hardsigmoid": Function.HARDSIGMOID,
    "hardswish": Function.HARDSWISH,
    "silu": Function.SILU,
    "gelu": Function.GELU,
    "leaky_relu": Function.LEAKY_RELU,
    "relu": Function.CLAMP,
    "clamp": Function.CLAMP,
    "neg": Function.MULTIPLY_NUMBER,
}


def function(graph: TypedGraph, number: int) -> Lowering | None:
    """A function of each value, whatever its shape is."""
    node = graph.nodes[number - 1]
    return elementwise(graph, number, FUNCTIONS[node.operation], *_parameters(node))


def elementwise(graph: TypedGraph, number: int, function: Function, a: float = 0.0, b: float = 0.0) -> Lowering | None:
    """A function of each value with its parameters: the result lies in memory as what is read does."""
    source, of = graph.nodes[number - 1].inputs[0], graph.types[number]
    if not isinstance(source, Value) or of.dtype != "f32" or memory_strides(of) is None:
        return None
    before, shape = graph.types[source.number], graph.map_shape(Value(number))
    if before != of and (shape is None or graph.map_shape(source) != shape):
        return None

    count = Count(0, of.elements) if of.grows else Count(of.elements)

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        return [apply_function(function, places[source.number], places[number], count, a=a, b=b, node=number)]

    return Lowering(number, (source.number,), build, over=(source.number,))


def _parameters(node: Node) -> tuple[float, float]:
    match node.operation:
        case "leaky_relu":
            return float(node["negative_slope"]), 0.0
        case "relu":
            return 0.0, math.inf
        case "clamp":
            low, high = node["low"], node["high"]
            return -math.inf if low is None else float(low), math.inf if high is None else float(high)
        case "neg":
            return -1.0, 0.0
    return 0.0, 0.0


def classes(graph: TypedGraph, number: int) -> Lowering | None:
    """A softmax over the channels of a map or the features of rows, or its logarithm."""
    node, shape = graph.nodes[number - 1], graph.map_shape(Value(number))
    source, rank = node.inputs[0], len(graph.types[number].shape)
    if shape is None or not isinstance(source, Value) or graph.map_shape(source) != shape or node["dim"] % rank != 1:
        return None

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        x, out, logarithm = places[source.number], places[number], node.operation == "log_softmax"
        return [softmax(x, out, shape[1] * shape[2], shape[0], logarithm=logarithm, node=number)]

    return Lowering(number, (source.number,), build)
