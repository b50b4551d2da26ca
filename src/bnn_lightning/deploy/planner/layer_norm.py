"""Lowering of layer norms."""

import math

from bnn_lightning.deploy.ir.graph import ConstantRef, Value
from bnn_lightning.deploy.kernels.call import Count, KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.layer_norm import LayerNorm
from bnn_lightning.deploy.planner.lowering import Lowering, Places
from bnn_lightning.deploy.planner.typed_graph import TypedGraph
from bnn_lightning.deploy.planner.views import memory_strides


def layer_norm(graph: TypedGraph, number: int) -> Lowering | None:
    """A layer norm whose features follow upon each other in memory: of a map the channels."""
    node, of = graph.nodes[number - 1], graph.types[number]
    source, own = node.inputs[0], memory_strides(of)
    if not isinstance(source, Value) or own is None or of.dtype != "f32":
        return None
    shape = graph.map_shape(Value(number))
    if graph.types[source.number] != of and (shape is None or graph.map_shape(source) != shape):
        return None
    rank = len(of.shape)
    places = sorted((dim % rank for dim in node["dims"]), key=lambda place: -own[place])
    sizes = [of.for_images(1)[place] for place in places]
    features = math.prod(sizes)
    dense = [0 if size == 1 else math.prod(sizes[at + 1 :]) for at, size in enumerate(sizes)]
    if dense != [own[place] for place in places] or places != sorted(places):
        return None
    values = [graph.floats(item) if isinstance(item, ConstantRef) else None for item in node.inputs[1:]]
    if any(value is None for value in values):
        return None
    scale, shift = [*(None if value is None else value.ravel() for value in values), None, None][:2]
    layer, rows = LayerNorm(features, float(node["eps"]), scale, shift), of.elements // features

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        count = Count(0, rows) if of.grows else Count(rows)
        return [layer.call(constants, places[source.number], places[number], count, node=number)]

    return Lowering(number, (source.number,), build, over=(source.number,))
