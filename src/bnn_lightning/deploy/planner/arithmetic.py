"""Lowering of arithmetic that no other kernel computes in passing: of two values of any shapes, and of a number."""

import numpy as np

from bnn_lightning.deploy.kernels.abi import Function, Pair
from bnn_lightning.deploy.kernels.call import KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.strided import MOST_PAIRED, combine_pairs
from bnn_lightning.deploy.planner.functions import elementwise
from bnn_lightning.deploy.planner.lowering import Lowering, Places
from bnn_lightning.deploy.planner.operands import Operand, in_order, joined, operand
from bnn_lightning.deploy.planner.typed_graph import TypedGraph
from bnn_lightning.deploy.planner.views import memory_strides

_PAIRS = {"add": Pair.ADD, "sub": Pair.SUBTRACT, "mul": Pair.MULTIPLY, "div": Pair.DIVIDE}
_NUMBERS = {
    "add": Function.ADD_NUMBER,
    "sub": Function.ADD_NUMBER,
    "mul": Function.MULTIPLY_NUMBER,
    "div": Function.DIVIDE_NUMBER,
}


def arithmetic(graph: TypedGraph, number: int) -> Lowering | None:
    """A sum, difference, product or quotient of two values, repeated to one shape, or of a value and a number."""
    node = graph.nodes[number - 1]
    if len(node.inputs) == 1:
        other = float(node["other"])
        found = elementwise(graph, number, _NUMBERS[node.operation], -other if node.operation == "sub" else other)
        if found is not None:
            return found
    inputs = graph.graph.nodes[number - 1].inputs  # in the shapes that are repeated
    x = operand(graph, inputs[0])
    y = operand(graph, inputs[1]) if len(inputs) == 2 else Operand.of(np.array(node["other"], np.float32))
    sizes = graph.types[number].shape
    if x is None or y is None:
        return None
    order = in_order(graph.types[number], sizes, [x.broadcast(sizes), y.broadcast(sizes)])
    dims = None if order is None else joined(order.dims, MOST_PAIRED)
    if order is None or dims is None:
        return None

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        return [
            combine_pairs(
                _PAIRS[node.operation],
                x.address(constants, places),
                y.address(constants, places),
                places[number],
                (order.images[0], order.images[1]),
                [(size, steps[0], steps[1]) for size, steps in dims],
                count=order.count,
                node=number,
            )
        ]

    reads = tuple(dict.fromkeys(item.number for item in (x, y) if item.number is not None))
    own = memory_strides(graph.types[number])
    otherwise = [item.number for item in (x, y) if item.offset or tuple(item.broadcast(sizes)) != own]
    over = (item for item in reads if item not in otherwise and graph.types[item] == graph.types[number])
    return Lowering(number, reads, build, over=tuple(over))
