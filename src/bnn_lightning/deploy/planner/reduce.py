"""Native forms of averages over the map: of sums over its parts, which what computes the map may leave behind."""

from collections.abc import Mapping

import torch
from torch import Tensor

from bnn_lightning.deploy.ir.graph import Input, Value
from bnn_lightning.deploy.kernels.layout import sums_shape
from bnn_lightning.deploy.kernels.pool import ChannelMean
from bnn_lightning.deploy.planner.match import Chain
from bnn_lightning.deploy.planner.typed_graph import Job, Operation, Resource, Sums, TypedGraph


def mean(graph: TypedGraph, number: int) -> Operation | None:
    """The average of each channel over the map, with the PReLU before it, or the averages over 2x2 of even sides."""
    node = graph.nodes[number - 1]
    if node["dims"] not in ([2, 3], [-2, -1]) or not graph.is_map(node.inputs[0]):
        return None
    chain = Chain.from_value(graph, node.inputs[0])
    channels = graph.shape(number)[1]
    if isinstance(chain.at, Value) and all(side > 1 for side in graph.shape(chain.at.number)[2:]):
        before_halving = chain.at
        if chain.halving() and not _even(graph, chain.at):
            chain.at = before_halving
    before = chain.slope(channels)
    if not isinstance(chain.at, Value) or not graph.is_map(chain.at):
        return None
    shape = graph.shape(chain.at.number)
    slope = b"" if before is None else before.float().numpy().tobytes()
    layer, sums = ChannelMean(channels), Sums(chain.at.number, sums_shape(shape), slope)

    def build(tensors: Mapping[Resource, Tensor]) -> list[Job]:
        return [Job("average", layer.averaging(tensors[sums], tensors[number], shape[2] * shape[3]))]

    return Operation(number, (sums,), build)


def summing(graph: TypedGraph, sums: Sums) -> Operation:
    """The sums of a map by themselves, where what computes it cannot leave them behind."""
    before = torch.frombuffer(bytearray(sums.slope), dtype=torch.float32) if sums.slope else None
    layer = ChannelMean(graph.shape(sums.value)[1], before=before)

    def build(tensors: Mapping[Resource, Tensor]) -> list[Job]:
        return [Job("sum", layer.summing(tensors[sums.value], tensors[sums]), (layer,))]

    return Operation(sums, (sums.value,), build)


def _even(graph: TypedGraph, argument: Input) -> bool:
    return isinstance(argument, Value) and all(side % 2 == 0 for side in graph.shape(argument.number)[2:])
