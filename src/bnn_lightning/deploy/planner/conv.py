"""Native forms of the real-valued operations of a graph: convolution, linear layer, pooling, gates."""

from collections.abc import Mapping

import torch
from torch import Tensor

from bnn_lightning.deploy.ir.graph import ConstantRef, Input, Node, Value
from bnn_lightning.deploy.ir.operations import MOST_FACTORS
from bnn_lightning.deploy.kernels.abi import WORKERS
from bnn_lightning.deploy.kernels.conv2d import RealConv2d, RowLinear
from bnn_lightning.deploy.kernels.conv2d_int8 import ByteConv2d
from bnn_lightning.deploy.kernels.layout import Activation
from bnn_lightning.deploy.kernels.pool import Pool2d
from bnn_lightning.deploy.kernels.squeeze_excite import Gate
from bnn_lightning.deploy.planner.match import Chain, constant, pair
from bnn_lightning.deploy.planner.typed_graph import BYTES, Job, Operation, Resource, TypedGraph


def real_convolution(graph: TypedGraph, number: int) -> Operation | None:
    """A convolution without groups, of floats or of images in bytes, and what stands around it.

    That is the affine map, PReLU and clamp behind it, and averages over 2x2 or the normalisation of images before it.
    """
    if not graph.is_map(Value(number)):
        return None
    return _convolution(Chain.from_value(graph, Value(number)), number, None)


def convolution_and_maxima(graph: TypedGraph, number: int) -> Operation | None:
    """A convolution, as above, whose result only a max-pooling reads: it is taken while rows are in the cache."""
    source, maxima = graph.nodes[number - 1].inputs[0], _max_pool(graph, number)
    if maxima is None or not graph.is_map(source) or not graph.only_use(source):
        return None
    return _convolution(Chain.from_value(graph, source), number, maxima)


def _convolution(chain: Chain, number: int, maxima: Pool2d | None) -> Operation | None:
    graph, channels = chain.graph, chain.graph.shape(chain.at.number)[1]  # type: ignore[union-attr]
    activation, affine = chain.activation(channels), chain.affine(channels)
    node = chain.node("conv2d", "byte_conv2d")
    if node is None:
        return None
    layer_of = _float_layer if node.operation == "conv2d" else _byte_layer
    layer = layer_of(chain, node, affine, activation, maxima)
    if layer is None or not isinstance(chain.at, Value) or not graph.is_map(chain.at):
        return None
    source = BYTES if graph.bytes and chain.at == Value(0) and layer.pool == 1 else chain.at.number
    meta = graph.metas[source]
    if layer.band(meta.shape, copied=source == BYTES) is None:
        return None

    def build(tensors: Mapping[Resource, Tensor]) -> list[Job]:
        job = layer.job(tensors[source], tensors.get(number), work=tensors.get("work"))
        return [Job("real_convolve", job, (layer,))]

    size = layer.work_size(meta.shape, copied=source == BYTES)
    scratch = {"work": (WORKERS * size // 4,)} if size else {}
    return Operation(number, (source,), build, scratch, emits=True, any_layout=layer.reads(meta))


def _float_layer(
    chain: Chain,
    node: Node,
    affine: tuple[Tensor, Tensor] | None,
    activation: Activation,
    maxima: Pool2d | None,
) -> RealConv2d | None:
    graph, channels = chain.graph, activation.channels
    weight = _floats(graph, node.inputs[1])
    if weight is None or node["groups"] != 1:
        return None
    if weight.dim() != 4 or weight.shape[0] != channels or not graph.is_map(node.inputs[0]):
        return None
    bias = constant(graph, node.input(2), channels)
    if node.input(2) is not None and bias is None:
        return None
    stride, padding, dilation = (pair(node, name) for name in ("stride", "padding", "dilation"))
    chain.at = node.inputs[0]
    plain = tuple(weight.shape[2:]) + stride + padding == (1, 1, 1, 1, 0, 0)
    pool = 2 if plain and chain.halving() else 1
    normalisation = chain.normalisation(weight.shape[1]) if pool == 1 else None
    return RealConv2d(
        weight,
        bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        affine=affine,
        normalisation=normalisation,
        pool=pool,
        activation=activation,
        maxima=maxima,
    )


def _byte_layer(
    chain: Chain,
    node: Node,
    affine: tuple[Tensor, Tensor] | None,
    activation: Activation,
    maxima: Pool2d | None,
) -> RealConv2d | None:
    refs = [item for item in node.inputs[1:4] if isinstance(item, ConstantRef)]
    if len(refs) < 3:
        return None
    weight, scale, around = (chain.graph.network.constant(item) for item in refs)
    bias = constant(chain.graph, node.input(4), len(weight))
    if (
        len(weight) != activation.channels
        or weight[0].numel() >= MOST_FACTORS
        or (bias is None) != (node.input(4) is None)
    ):
        return None
    if affine is not None:
        scale, bias = scale * affine[0], (0 if bias is None else bias * affine[0]) + affine[1]
    chain.at = node.inputs[0]
    moves = {name: pair(node, name) for name in ("stride", "padding", "dilation")}
    return ByteConv2d(weight, scale, around, bias, **moves, activation=activation, maxima=maxima)


def linear(graph: TypedGraph, number: int) -> Operation | None:
    """A linear layer of rows, and the affine map before it."""
    node = graph.nodes[number - 1]
    weight = _floats(graph, node.inputs[1])
    if weight is None or weight.dim() != 2 or not isinstance(node.inputs[0], Value):
        return None
    bias = constant(graph, node.input(2), weight.shape[0])
    if (bias is None) != (node.input(2) is None):
        return None
    chain = Chain(graph, Value(number), node.inputs[0])
    affine, (whole, outputs) = chain.affine(weight.shape[1]), _int8(graph, node.inputs[1])
    if affine is not None:
        whole, outputs = None, None
        scale, shift = affine
        bias = weight.double() @ shift + (0 if bias is None else bias)
        weight = weight.double() * scale
    flat = _flattening(chain)
    if not isinstance(chain.at, Value):
        return None
    source, meta = chain.at.number, graph.metas[chain.at.number]
    if meta.dtype != torch.float32 or meta.numel() == 0 or weight.numel() == 0 or not (flat or meta.dim() == 2):
        return None
    layer = RowLinear(weight.float() if whole is None else whole, bias, scale=outputs)

    def build(tensors: Mapping[Resource, Tensor]) -> list[Job]:
        return [Job("linear", layer.job(tensors[source].flatten(1), tensors[number]), (layer,))]

    return Operation(number, (source,), build)


def _flattening(chain: Chain) -> bool:
    """Step over a view of (N, C, 1, 1) as (N, C); whether there is one."""
    graph, node = chain.graph, chain.node("reshape")
    if node is not None and isinstance(chain.at, Value) and _is_average(graph, node.inputs[0]):
        shape = graph.shape(node.inputs[0].number)  # type: ignore[union-attr]
        if graph.shape(chain.at.number) == shape[:2]:
            chain.at = node.inputs[0]
            return True
    return False


def pooling(graph: TypedGraph, number: int) -> Operation | None:
    """Maxima or averages of windows, with the PReLU before them."""
    node = graph.nodes[number - 1]
    if not graph.is_map(Value(number)):
        return None
    chain = Chain.from_value(graph, node.inputs[0])
    before = chain.slope(graph.shape(number)[1])
    if not isinstance(chain.at, Value) or not graph.is_map(chain.at):
        return None
    pool_of = _average_pool if node.operation == "avg_pool2d" else _max_pool
    layer, source = pool_of(graph, number, before), chain.at.number
    if layer is None or not layer.is_native:
        return None

    def build(tensors: Mapping[Resource, Tensor]) -> list[Job]:
        return [Job("pool", layer.job(tensors[source], tensors.get(number)), (layer,))]

    return Operation(number, (source,), build, emits=True)


def _max_pool(graph: TypedGraph, number: int, before: Tensor | None = None) -> Pool2d | None:
    node = graph.nodes[number - 1]
    if pair(node, "dilation") != (1, 1) or not graph.is_map(Value(number)):
        return None
    kernel, stride, padding = (pair(node, name) for name in ("kernel_size", "stride", "padding"))
    fixed = {"padding": padding, "ceil_mode": node["ceil_mode"], "before": before}
    return Pool2d(graph.shape(number)[1], kernel, stride, average=False, **fixed)


def _average_pool(graph: TypedGraph, number: int, before: Tensor | None) -> Pool2d | None:
    node = graph.nodes[number - 1]
    if pair(node, "padding") != (0, 0) or node["divisor_override"] is not None:
        return None
    kernel, stride = pair(node, "kernel_size"), pair(node, "stride")
    return Pool2d(graph.shape(number)[1], kernel, stride, average=True, ceil_mode=node["ceil_mode"], before=before)


def gate(graph: TypedGraph, number: int) -> Operation | None:
    """Squeeze-and-excite behind averages, of one map or of a blend of two."""
    chain = Chain.from_value(graph, Value(number))
    excite = _pointwise(chain, "sigmoid")
    squeeze = None if excite is None else _pointwise(chain, "relu")
    if excite is None or squeeze is None:
        return None
    own, other, mix = _blend(chain, squeeze[0].shape[1])
    averages = (graph.shape(number)[0], squeeze[0].shape[1], 1, 1)
    if own is None or any(graph.shape(item) != averages for item in (own, other) if item is not None):
        return None
    layer = Gate(*squeeze[:2], *excite[:2], mix=mix, squeeze_scale=squeeze[2], excite_scale=excite[2])

    def build(tensors: Mapping[Resource, Tensor]) -> list[Job]:
        second = None if other is None else tensors[other]
        return [Job("gate", layer.job(tensors[own], second, tensors["work"], tensors[number]), (layer,))]

    reads = (own,) if other is None else (own, other)
    return Operation(number, reads, build, scratch={"work": layer.work(graph.shape(number)[0])})


def _pointwise(chain: Chain, behind: str) -> tuple[Tensor, Tensor | None, Tensor | None] | None:
    """Step over an activation and the plain 1x1 convolution before it: its weight, bias, and the scale of int8."""
    graph, node = chain.graph, chain.node(behind)
    chain.at = chain.at if node is None else node.inputs[0]
    conv = None if node is None else chain.node("conv2d")
    weight = None if conv is None else _floats(graph, conv.inputs[1])
    if conv is None or weight is None or weight.dim() != 4 or weight.shape[2:] != (1, 1) or conv.attributes:
        return None
    chain.at = conv.inputs[0]
    whole, scale = _int8(graph, conv.inputs[1])
    bias = constant(graph, conv.input(2), weight.shape[0])
    if bias is None and conv.input(2) is not None:
        return None
    return (weight if whole is None else whole).flatten(1), bias, scale


def _blend(chain: Chain, channels: int) -> tuple[int | None, int | None, Tensor | None]:
    """Read `own + mix (other - own)`, or a single value: the numbers of own and other, and mix."""
    graph = chain.graph
    node = chain.node("mean")  # of averages once more: the identity
    if node is not None and _is_average(graph, node.inputs[0]):
        chain.over(node.inputs[0])
    node = chain.node("add")
    if node is None or len(node.inputs) != 2:
        return (_first_like(graph, chain.at) if _is_average(graph, chain.at) else None), None, None
    own, product = node.inputs
    inside = Chain(graph, chain.top, product)
    node = inside.node("mul")
    for factor, values in () if node is None or len(node.inputs) != 2 else (node.inputs, node.inputs[::-1]):
        inside.at = factor
        difference, mix = inside.node("sub"), constant(graph, values, channels, elementwise=True)
        if difference is not None and mix is not None and difference.input(1) == own:
            other = difference.inputs[0]
            if _is_average(graph, own) and _is_average(graph, other):
                return _first_like(graph, own), _first_like(graph, other), mix
    return None, None, None


def _is_average(graph: TypedGraph, argument: Input) -> bool:
    return graph.is_map(argument) and graph.shape(argument.number)[2:] == (1, 1)  # type: ignore[union-attr]


def _first_like(graph: TypedGraph, argument: Input) -> int:
    """Return the number of the first value that is computed in the same way."""
    assert isinstance(argument, Value)
    if argument.number == 0:
        return 0
    return 1 + graph.nodes.index(graph.nodes[argument.number - 1])


def _floats(graph: TypedGraph, argument: Input) -> Tensor | None:
    """Return a weight in float32, as the file holds it or times its scale."""
    whole, scale = _int8(graph, argument)
    if whole is not None and scale is not None:
        return whole * scale.view(-1, *[1] * (whole.dim() - 1))
    if not isinstance(argument, ConstantRef):
        return None
    stored = graph.network.constant(argument)
    return stored if stored.dtype == torch.float32 else None


def _int8(graph: TypedGraph, argument: Input) -> tuple[Tensor | None, Tensor | None]:
    """Return a weight that the file holds in int8, and its scale."""
    node = graph.node_of(argument)
    refs = [] if node is None or node.operation != "dequantize" else node.constants()
    if len(refs) != 2:
        return None, None
    whole, scale = (graph.network.constant(item) for item in refs)
    if whole.dtype != torch.int8 or scale.dtype != torch.float32 or not whole.dim() or scale.numel() != len(whole):
        return None, None
    return whole, scale.flatten()
