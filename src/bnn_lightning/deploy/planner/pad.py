"""The native form of channels of zeros around a map: the shortcut of ResNets without parameters."""

from collections.abc import Mapping

from torch import Tensor

from bnn_lightning.deploy.ir.graph import Node, Value
from bnn_lightning.deploy.kernels.abi import Padding
from bnn_lightning.deploy.kernels.squeeze_excite import Combine
from bnn_lightning.deploy.planner.conv import pooling
from bnn_lightning.deploy.planner.typed_graph import Job, Operation, Resource, TypedGraph


def padding(graph: TypedGraph, number: int) -> Operation | None:
    """Channels of zeros before and behind a map, and the pooling before it, which writes in between."""
    node = graph.nodes[number - 1]
    x, widths = node.inputs[0], _widths(node)
    if widths is None or not isinstance(x, Value) or not graph.is_map(x):
        return None
    inner, source = graph.shape(x.number)[1], x.number
    before = graph.node_of(x)
    pooled = before is not None and before.operation in ("avg_pool2d", "max_pool2d") and graph.only_use(x)
    pool, copy = pooling(graph, source) if pooled else None, Combine(inner)

    def build(tensors: Mapping[Resource, Tensor]) -> list[Job]:
        out = tensors[number]
        place = out[:, widths[0] : widths[0] + inner]
        zeros = Padding(
            pixels=out.shape[0] * out.shape[2] * out.shape[3],
            channels=out.shape[1],
            first=widths[0],
            inner=inner,
            out=out.data_ptr(),
        )
        if pool is not None:
            return [Job("pad", zeros), *pool.build({**tensors, source: place})]
        return [Job("pad", zeros), Job("combine", copy.job(tensors[source], None, None, place), (copy,))]

    return Operation(number, (source,) if pool is None else pool.reads, build)


def _widths(node: Node) -> tuple[int, int] | None:
    """Return the channels before and behind of a padding with zeros that adds no pixels."""
    if node["mode"] != "constant" or node["value"] not in (None, 0):
        return None
    match node["padding"]:
        case [0, 0, 0, 0, int(before), int(behind)] if min(before, behind) >= 0:
            return before, behind
    return None
