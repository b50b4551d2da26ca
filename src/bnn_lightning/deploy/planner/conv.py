"""Native forms of the real-valued operations of a program: convolution, linear layer, pooling, gates."""

from collections.abc import Mapping

import torch
from torch import Tensor

from bnn_lightning.deploy.ir.graph import Argument, Step, Stored, Value
from bnn_lightning.deploy.kernels.abi import WORKERS
from bnn_lightning.deploy.kernels.conv2d import RealConv2d, RowLinear
from bnn_lightning.deploy.kernels.conv2d_int8 import MOST_FACTORS, ByteConv2d
from bnn_lightning.deploy.kernels.layout import Activation
from bnn_lightning.deploy.kernels.pool import Pool2d
from bnn_lightning.deploy.kernels.squeeze_excite import Gate
from bnn_lightning.deploy.planner.match import Chain, constant, pair, pooling_arguments
from bnn_lightning.deploy.planner.typed_graph import BYTES, Graph, Job, Operation, Resource


def real_convolution(graph: Graph, number: int) -> Operation | None:
    """A convolution without groups, of floats or of images in bytes, and what stands around it.

    That is the affine map, PReLU and clamp behind it, and averages over 2x2 or the normalisation of images before it.
    """
    if not graph.is_map(Value(number)):
        return None
    return _convolution(Chain.from_value(graph, Value(number)), number, None)


def convolution_and_maxima(graph: Graph, number: int) -> Operation | None:
    """A convolution, as above, whose result only a max-pooling reads: it is taken while rows are in the cache."""
    source, maxima = graph.steps[number - 1].arguments[0], _max_pool(graph, number)
    if maxima is None or not graph.is_map(source) or not graph.only_use(source):
        return None
    return _convolution(Chain.from_value(graph, source), number, maxima)


def _convolution(chain: Chain, number: int, maxima: Pool2d | None) -> Operation | None:
    graph, channels = chain.graph, chain.graph.shape(chain.at.number)[1]  # type: ignore[union-attr]
    activation, affine = chain.activation(channels), chain.affine(channels)
    step = chain.step("conv2d", "byte_conv2d")
    if step is None:
        return None
    layer_of = _float_layer if step.operation == "conv2d" else _byte_layer
    layer = layer_of(chain, step, affine, activation, maxima)
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
    step: Step,
    affine: tuple[Tensor, Tensor] | None,
    activation: Activation,
    maxima: Pool2d | None,
) -> RealConv2d | None:
    graph, channels = chain.graph, activation.channels
    weight = _floats(graph, step.arguments[1])
    if weight is None or pair(_at(step, 6), 1)[0] != 1 or isinstance(_at(step, 4), str):
        return None
    if weight.dim() != 4 or weight.shape[0] != channels or not graph.is_map(step.arguments[0]):
        return None
    bias = None if _at(step, 2) is None else constant(graph, _at(step, 2), channels)
    if _at(step, 2) is not None and bias is None:
        return None
    stride, padding, dilation = (pair(_at(step, place), default) for place, default in ((3, 1), (4, 0), (5, 1)))
    chain.at = step.arguments[0]
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
    step: Step,
    affine: tuple[Tensor, Tensor] | None,
    activation: Activation,
    maxima: Pool2d | None,
) -> RealConv2d | None:
    if not all(isinstance(item, Stored) for item in step.arguments[1:4]):
        return None
    weight, scale, around = (chain.graph.network.stored(item) for item in step.arguments[1:4])  # type: ignore[arg-type]
    bias = None if _at(step, 4) is None else constant(chain.graph, _at(step, 4), len(weight))
    if (
        len(weight) != activation.channels
        or weight[0].numel() >= MOST_FACTORS
        or (bias is None) != (_at(step, 4) is None)
    ):
        return None
    if affine is not None:
        scale, bias = scale * affine[0], (0 if bias is None else bias * affine[0]) + affine[1]
    stride, padding, dilation = (pair(_at(step, place), default) for place, default in ((5, 1), (6, 0), (7, 1)))
    chain.at = step.arguments[0]
    moves = {"stride": stride, "padding": padding, "dilation": dilation}
    return ByteConv2d(weight, scale, around, bias, **moves, activation=activation, maxima=maxima)


def linear(graph: Graph, number: int) -> Operation | None:
    """A linear layer of rows, and the affine map before it."""
    step = graph.steps[number - 1]
    weight = _floats(graph, step.arguments[1])
    if weight is None or weight.dim() != 2 or not isinstance(step.arguments[0], Value):
        return None
    bias = None if _at(step, 2) is None else constant(graph, _at(step, 2), weight.shape[0])
    if (bias is None) != (_at(step, 2) is None):
        return None
    chain = Chain(graph, Value(number), step.arguments[0])
    affine, (whole, outputs) = chain.affine(weight.shape[1]), _int8(graph, step.arguments[1])
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
    graph, step = chain.graph, chain.step("reshape")
    if step is not None and isinstance(chain.at, Value) and _is_average(graph, step.arguments[0]):
        shape = graph.shape(step.arguments[0].number)  # type: ignore[union-attr]
        if graph.shape(chain.at.number) == shape[:2]:
            chain.at = step.arguments[0]
            return True
    return False


def pooling(graph: Graph, number: int) -> Operation | None:
    """Maxima or averages of windows, with the PReLU before them."""
    step = graph.steps[number - 1]
    if not graph.is_map(Value(number)):
        return None
    chain = Chain.from_value(graph, step.arguments[0])
    before = chain.slope(graph.shape(number)[1])
    if not isinstance(chain.at, Value) or not graph.is_map(chain.at):
        return None
    pool_of = _average_pool if step.operation == "avg_pool2d" else _max_pool
    layer, source = pool_of(graph, number, before), chain.at.number
    if layer is None or not layer.is_native:
        return None

    def build(tensors: Mapping[Resource, Tensor]) -> list[Job]:
        return [Job("pool", layer.job(tensors[source], tensors.get(number)), (layer,))]

    return Operation(number, (source,), build, emits=True)


def _max_pool(graph: Graph, number: int, before: Tensor | None = None) -> Pool2d | None:
    step = graph.steps[number - 1]
    kernel, stride, padding, *_ = pooling_arguments(step)
    if pair(_at(step, 4), 1) != (1, 1) or not graph.is_map(Value(number)):
        return None
    fixed = {"padding": padding, "ceil_mode": bool(_at(step, 5)), "before": before}
    return Pool2d(graph.shape(number)[1], kernel, stride, average=False, **fixed)  # type: ignore[arg-type]


def _average_pool(graph: Graph, number: int, before: Tensor | None) -> Pool2d | None:
    kernel, stride, padding, ceil_mode, _, divisor = pooling_arguments(graph.steps[number - 1])
    if padding != (0, 0) or divisor is not None:
        return None
    return Pool2d(graph.shape(number)[1], kernel, stride, average=True, ceil_mode=ceil_mode, before=before)


def gate(graph: Graph, number: int) -> Operation | None:
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
    graph, step = chain.graph, chain.step(behind)
    chain.at = chain.at if step is None else step.arguments[0]
    conv = None if step is None else chain.step("conv2d")
    weight = None if conv is None else _floats(graph, conv.arguments[1])
    if conv is None or weight is None or weight.dim() != 4 or weight.shape[2:] != (1, 1) or len(conv.arguments) > 3:
        return None
    chain.at = conv.arguments[0]
    whole, scale = _int8(graph, conv.arguments[1])
    bias = None if _at(conv, 2) is None else constant(graph, _at(conv, 2), weight.shape[0])
    if bias is None and _at(conv, 2) is not None:
        return None
    return (weight if whole is None else whole).flatten(1), bias, scale


def _blend(chain: Chain, channels: int) -> tuple[int | None, int | None, Tensor | None]:
    """Read `own + mix (other - own)`, or a single value: the numbers of own and other, and mix."""
    graph = chain.graph
    step = chain.step("mean.dim")  # of averages once more: the identity
    if step is not None and _is_average(graph, step.arguments[0]):
        chain.over(step.arguments[0])
    step = chain.step("add.Tensor")
    if step is None:
        return (_first_like(graph, chain.at) if _is_average(graph, chain.at) else None), None, None
    own, product = step.arguments[:2]
    inside = Chain(graph, chain.top, product)
    step = inside.step("mul.Tensor")
    for factor, values in () if step is None else (step.arguments[:2], step.arguments[1::-1]):
        inside.at = factor
        difference, mix = inside.step("sub.Tensor"), constant(graph, values, channels, elementwise=True)
        if difference is not None and mix is not None and difference.arguments[1] == own:
            other = difference.arguments[0]
            if _is_average(graph, own) and _is_average(graph, other):
                return _first_like(graph, own), _first_like(graph, other), mix
    return None, None, None


def _is_average(graph: Graph, argument: Argument) -> bool:
    return graph.is_map(argument) and graph.shape(argument.number)[2:] == (1, 1)  # type: ignore[union-attr]


def _first_like(graph: Graph, argument: Argument) -> int:
    """Return the number of the first value that is computed in the same way."""
    assert isinstance(argument, Value)
    if argument.number == 0:
        return 0
    return 1 + graph.steps.index(graph.steps[argument.number - 1])


def _floats(graph: Graph, argument: Argument) -> Tensor | None:
    """Return a weight in float32, as the file holds it or times its scale."""
    whole, scale = _int8(graph, argument)
    if whole is not None and scale is not None:
        return whole * scale.view(-1, *[1] * (whole.dim() - 1))
    if not isinstance(argument, Stored):
        return None
    stored = graph.network.stored(argument)
    return stored if stored.dtype == torch.float32 else None


def _int8(graph: Graph, argument: Argument) -> tuple[Tensor | None, Tensor | None]:
    """Return a weight that the file holds in int8, and its scale."""
    step = graph.step_of(argument)
    if step is None or step.operation != "dequantize" or not all(isinstance(item, Stored) for item in step.arguments):
        return None, None
    whole, scale = (graph.network.stored(item) for item in step.arguments)  # type: ignore[arg-type]
    if whole.dtype != torch.int8 or scale.dtype != torch.float32 or not whole.dim() or scale.numel() != len(whole):
        return None, None
    return whole, scale.flatten()


def _at(step: Step, place: int) -> Argument:
    return step.arguments[place] if place < len(step.arguments) else None
