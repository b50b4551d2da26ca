"""Lowering of averages over the map: of sums over its parts, which what computes the map may leave behind."""

import numpy as np

from bnn_lightning.deploy.ir.graph import Value
from bnn_lightning.deploy.kernels.call import KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.layout import Map, Shape
from bnn_lightning.deploy.kernels.pool import average_parts, sum_parts
from bnn_lightning.deploy.planner.lowering import Lowering, Places, Sums
from bnn_lightning.deploy.planner.match import Chain, pair
from bnn_lightning.deploy.planner.typed_graph import TypedGraph


def mean(graph: TypedGraph, number: int) -> Lowering | None:
    """The average of each channel over the map, with the PReLU before it, or the averages over 2x2 of even sides."""
    node = graph.nodes[number - 1]
    shape = graph.map_shape(node.inputs[0])
    adaptive = node.operation == "adaptive_avg_pool2d"
    over_map = list(pair(node["output_size"])) == [1, 1] if adaptive else sorted(d % 4 for d in node["dims"]) == [2, 3]
    if not over_map or shape is None:
        return None
    chain = Chain.from_value(graph, node.inputs[0])
    if all(side > 1 for side in shape[1:]):
        before_halving = chain.at
        if chain.halving() and not _even(graph.map_shape(chain.at)):
            chain.at = before_halving
    before = chain.slope(shape[0])
    of_map = graph.map_shape(chain.at)
    if not isinstance(chain.at, Value) or of_map is None:
        return None
    sums = Sums(chain.at.number, of_map, b"" if before is None else before.astype(np.float32).tobytes())

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        return [average_parts(of_map, places[sums], places[number], node=number)]

    return Lowering(number, (sums,), build)


def summing(sums: Sums) -> Lowering:
    """The sums of a map by themselves, where what computes it cannot leave them behind."""

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        x = Map(places[sums.value], sums.shape)
        return [sum_parts(constants, x, sums.slopes, places[sums], node=sums.value)]

    return Lowering(sums, (sums.value,), build)


def _even(shape: Shape | None) -> bool:
    return shape is not None and all(side % 2 == 0 for side in shape[1:])
