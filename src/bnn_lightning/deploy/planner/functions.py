"""Lowering of functions that no other kernel computes in passing: of each value by itself, and of classes."""

import math

from bnn_lightning.deploy.ir.graph import Node, Value
from bnn_lightning.deploy.kernels.abi import Function
from bnn_lightning.deploy.kernels.call import KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.functions import apply_function, softmax
from bnn_lightning.deploy.planner.lowering import Lowering, Places
from bnn_lightning.deploy.planner.typed_graph import TypedGraph

FUNCTIONS = {
    "sigmoid": Function.SIGMOID,
    "tanh": Function.TANH,
    "hardsigmoid": Function.HARDSIGMOID,
    "hardswish": Function.HARDSWISH,
    "silu": Function.SILU,
    "gelu": Function.GELU,
    "leaky_relu": Function.LEAKY_RELU,
    "relu": Function.CLAMP,
    "neg": Function.MULTIPLY_NUMBER,
}


def function(graph: TypedGraph, number: int) -> Lowering | None:
    """A function of each value of a map or of rows."""
    node, shape = graph.nodes[number - 1], graph.map_shape(Value(number))
    source = node.inputs[0]
    if shape is None or not isinstance(source, Value) or graph.map_shape(source) != shape:
        return None
    of, (a, b) = FUNCTIONS[node.operation], _parameters(node)

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        size = math.prod(shape)
        return [apply_function(of, places[source.number], places[number], size, a=a, b=b, node=number)]

    return Lowering(number, (source.number,), build, over=(source.number,))


def _parameters(node: Node) -> tuple[float, float]:
    match node.operation:
        case "leaky_relu":
            return float(node["negative_slope"]), 0.0
        case "relu":
            return 0.0, math.inf
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
