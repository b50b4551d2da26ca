"""Lowering of reductions.

Sums and averages over the map are made of sums over its parts, which what computes the map may leave behind; others are
computed between strides.
"""

import math

import numpy as np

from bnn_lightning.deploy.ir.graph import Value
from bnn_lightning.deploy.ir.types import Images
from bnn_lightning.deploy.kernels.call import KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.layout import FLOAT, Map, Shape
from bnn_lightning.deploy.kernels.pool import average_parts, sum_parts
from bnn_lightning.deploy.kernels.strided import MOST_KEPT, MOST_REDUCED, reduce_dimensions
from bnn_lightning.deploy.planner.lowering import Lowering, Places, Sums
from bnn_lightning.deploy.planner.match import Chain, pair
from bnn_lightning.deploy.planner.operands import in_order, joined, operand
from bnn_lightning.deploy.planner.typed_graph import TypedGraph


def over_map(graph: TypedGraph, number: int) -> Lowering | None:
    """The average or sum of each channel over the map, with the PReLU before it.

    The averages over 2x2 of even sides that stand before an average fall out.
    """
    node = graph.nodes[number - 1]
    x, shape = node.inputs[0], graph.map_shape(node.inputs[0])
    adaptive = node.operation == "adaptive_avg_pool2d"
    sizes = graph.types[x.number].shape if isinstance(x, Value) else ()
    if shape is None or len(sizes) != 4 or not isinstance(sizes[0], Images):
        return None
    whole = list(pair(node["output_size"])) == [1, 1] if adaptive else sorted(d % 4 for d in node["dims"]) == [2, 3]
    if not whole:
        return None
    chain = Chain.from_value(graph, x)
    if node.operation != "sum" and all(side > 1 for side in shape[1:]):
        before_halving = chain.at
        if chain.halving() and not _even(graph.map_shape(chain.at)):
            chain.at = before_halving
    before = chain.slope(shape[0])
    of_map = graph.map_shape(chain.at)
    if not isinstance(chain.at, Value) or of_map is None:
        return None
    sums = Sums(chain.at.number, of_map, b"" if before is None else before.astype(np.float32).tobytes())

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        factor = 1.0 if node.operation == "sum" else None
        return [average_parts(of_map, places[sums], places[number], factor=factor, node=number)]

    return Lowering(number, (sums,), build)


def summing(sums: Sums) -> Lowering:
    """The sums of a map by themselves, where what computes it cannot leave them behind."""

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        x = Map(places[sums.value], sums.shape)
        return [sum_parts(constants, x, sums.slopes, places[sums], node=sums.value)]

    return Lowering(sums, (sums.value,), build)


def reduction(graph: TypedGraph, number: int) -> Lowering | None:
    """The average, sum or maximum over any dimensions but that of the images."""
    node = graph.nodes[number - 1]
    adaptive = node.operation.startswith("adaptive")
    shaped = graph.graph.nodes[number - 1].inputs[0]  # in the shape that has the dimensions
    x, dims = operand(graph, shaped), [2, 3] if adaptive else node["dims"]
    if x is None or x.number is None or (adaptive and list(pair(node["output_size"])) != [1, 1]):
        return None
    rank, source = len(x.sizes), x.number
    places = {dim % rank for dim in dims} or set(range(rank))
    within = [(size, step) for at, (size, step) in enumerate(zip(x.sizes, x.strides, strict=True)) if at in places]
    rest = [1 if at in places else size for at, size in enumerate(x.sizes)]
    if adaptive or node["keepdim"]:
        outer = in_order(graph.types[number], rest, [x.strides])
    else:
        kept = [at for at in range(rank) if at not in places]
        outer = in_order(graph.types[number], [rest[at] for at in kept], [[x.strides[at] for at in kept]])
    whole = [(size, step) for size, step in within if isinstance(size, int)]
    inner = joined([(size, (step,)) for size, step in whole if size != 1], MOST_REDUCED)
    kept_dims = None if outer is None else joined(outer.dims, MOST_KEPT)
    factors = math.prod(size for size, _ in whole)
    if outer is None or inner is None or kept_dims is None or len(whole) < len(within) or not factors:
        return None
    factor = float(np.float32(1 / factors)) if node.operation == "mean" or "avg" in node.operation else 1.0

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        return [
            reduce_dimensions(
                places[source] + FLOAT * x.offset,
                places[number],
                outer.images[0],
                [(size, steps[0]) for size, steps in kept_dims],
                [(size, steps[0]) for size, steps in inner],
                factor=factor,
                maximum=node.operation in ("amax", "adaptive_max_pool2d"),
                count=outer.count,
                node=number,
            )
        ]

    return Lowering(number, (source,), build)


def _even(shape: Shape | None) -> bool:
    return shape is not None and all(side % 2 == 0 for side in shape[1:])
