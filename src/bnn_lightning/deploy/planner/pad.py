"""Lowering of channels of zeros around a map: the shortcut of ResNets without parameters."""

from bnn_lightning.deploy.ir.graph import Node, Value
from bnn_lightning.deploy.kernels.call import KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.elementwise import FusedElementwise
from bnn_lightning.deploy.kernels.layout import Activation, Map
from bnn_lightning.deploy.kernels.pool import pad_channels
from bnn_lightning.deploy.planner.conv import pool_at
from bnn_lightning.deploy.planner.lowering import Lowering, Places
from bnn_lightning.deploy.planner.typed_graph import TypedGraph


def padding(graph: TypedGraph, number: int) -> Lowering | None:
    """Channels of zeros before and behind a map, and the pooling before it, which writes in between."""
    node = graph.nodes[number - 1]
    x, widths, shape = node.inputs[0], _widths(node), graph.map_shape(node.inputs[0])
    result = graph.map_shape(Value(number))
    if widths is None or shape is None or result is None or not isinstance(x, Value):
        return None
    before = graph.node_of(x)
    pooled = before is not None and before.operation in ("avg_pool2d", "max_pool2d") and graph.only_use(x)
    pool = pool_at(graph, x.number) if pooled else None
    source = x.number if pool is None else pool[1]
    copy, of_map = FusedElementwise(Activation(shape[0])), graph.map_shape(Value(source))
    assert of_map is not None

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        out, given = Map(places[number], result), Map(places[source], of_map)
        inside = out.part(widths[0], shape[0])
        zeros = pad_channels(out, widths[0], shape[0], node=number)
        if pool is not None:
            return [zeros, pool[0].call(constants, given, inside, node=number)]
        return [zeros, copy.call(constants, given, inside, node=number)]

    return Lowering(number, (source,), build)


def _widths(node: Node) -> tuple[int, int] | None:
    """Return the channels before and behind of a padding with zeros that adds no pixels."""
    if node["mode"] != "constant" or node["value"] not in (None, 0):
        return None
    match list(node["padding"]):
        case [0, 0, 0, 0, int(before), int(behind)] if min(before, behind) >= 0:
            return before, behind
    return None
