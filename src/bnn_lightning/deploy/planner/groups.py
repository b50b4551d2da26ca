"""Lowering of real-valued convolutions in groups."""

from bnn_lightning.deploy.ir.graph import Value
from bnn_lightning.deploy.kernels.call import KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.group_conv import GroupConv2d
from bnn_lightning.deploy.planner.conv import source_of, weights
from bnn_lightning.deploy.planner.lowering import Lowering, Places
from bnn_lightning.deploy.planner.match import Chain, constant, pair
from bnn_lightning.deploy.planner.typed_graph import TypedGraph


def grouped_convolution(graph: TypedGraph, number: int) -> Lowering | None:
    """A convolution in groups, and the affine map, PReLU and clamp behind it."""
    shape = graph.map_shape(Value(number))
    if shape is None:
        return None
    chain = Chain.from_value(graph, Value(number))
    activation, affine = chain.activation(shape[0]), chain.affine(shape[0])
    node = chain.node("conv2d")
    if node is None or node["groups"] == 1:
        return None
    weight, bias, source = weights(graph, node.inputs[1]), node.input(2), node.inputs[0]
    values = None if bias is None else constant(graph, bias, shape[0])
    if weight is None or weight.ndim != 4 or len(weight) != shape[0] or (values is None) != (bias is None):
        return None
    stride, pads, dilation = (pair(node[name]) for name in ("stride", "padding", "dilation"))
    chain.at = source
    zeros = None if any(pads) else chain.zeros()
    pads, source = pads if zeros is None else zeros[0], chain.at
    if not isinstance(source, Value) or graph.map_shape(source) is None:
        return None
    of = source_of(graph, node.inputs[1], weight)
    layer = GroupConv2d(weight, node["groups"], activation, values, stride, pads, dilation, affine, of)

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        out = graph.map_at(number, places) if number in places else None
        return [layer.call(constants, graph.map_at(source.number, places), out, shape[1:], node=number)]

    return Lowering(number, (source.number,), build, emits=layer.has_whole_blocks)
