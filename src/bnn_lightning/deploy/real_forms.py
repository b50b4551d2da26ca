"""Native forms of the real-valued operations of a program: convolution, linear layer, pooling, gates."""

from collections.abc import Mapping

import torch
from torch import Tensor

from bnn_lightning.deploy.chains import Chain, constant, pair, pooling_arguments
from bnn_lightning.deploy.gates import Gate
from bnn_lightning.deploy.graph import BYTES, Graph, Job, Operation, Resource
from bnn_lightning.deploy.maps import Activation
from bnn_lightning.deploy.pooling import Pool2d
from bnn_lightning.deploy.program import Argument, Step, Stored, Value
from bnn_lightning.deploy.real import RealConv2d, RowLinear


def real_convolution(graph: Graph, number: int) -> Operation | None:
    """A convolution without groups, and what stands around it.

    That is the affine map, PReLU and clamp behind it, and averages over 2x2 or the normalisation of images before it.
    """
    if not graph.is_map(Value(number)):
        return None
    chain = Chain.from_value(graph, Value(number))
    channels = graph.shape(number)[1]
    activation, affine = chain.activation(channels), chain.affine(channels)
    step = chain.step("conv2d")
    weight = None if step is None else _floats(graph, step.arguments[1])
    if step is None or weight is None or pair(_at(step, 6), 1)[0] != 1 or isinstance(_at(step, 4), str):
        return None
    bias = None if _at(step, 2) is None else constant(graph, _at(step, 2), channels)
    if _at(step, 2) is not None and bias is None:
        return None
    folded = _folded(weight.double(), bias, affine)
    return _convolution_of(chain, step, number, *folded, activation)


def _folded(weight: Tensor, bias: Tensor | None, affine: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    bias = torch.zeros(weight.shape[0], dtype=torch.float64) if bias is None else bias
    if affine is None:
        return weight, bias
    scale, shift = affine
    return weight * scale.view(-1, 1, 1, 1), bias * scale + shift


def _convolution_of(
    chain: Chain, step: Step, number: int, weight: Tensor, bias: Tensor, activation: Activation
) -> Operation | None:
    graph, around = chain.graph, None
    stride, padding, dilation = (pair(_at(step, place), default) for place, default in ((3, 1), (4, 0), (5, 1)))
    chain.at = step.arguments[0]
    plain = tuple(weight.shape[2:]) + stride + padding == (1, 1, 1, 1, 0, 0)
    pool = 2 if plain and chain.halving() else 1
    normalisation = chain.normalisation(weight.shape[1]) if pool == 1 else None
    unit = 255.0 if graph.bytes and chain.at == Value(0) else 1.0
    if normalisation is not None:
        mean, std = normalisation
        weight = weight / std.view(-1, 1, 1)
        bias, around = bias - (weight * mean.view(-1, 1, 1)).sum((1, 2, 3)), mean * unit
    if not isinstance(chain.at, Value) or not graph.is_map(chain.at):
        return None
    layer = RealConv2d(
        weight / unit,
        bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        around=around,
        pool=pool,
        activation=activation,
    )
    meta = graph.metas[chain.at.number]
    if layer.band(meta.shape, copied=unit > 1) is None:
        return None
    source: Resource = BYTES if unit > 1 else chain.at.number

    def build(tensors: Mapping[Resource, Tensor]) -> list[Job]:
        job = layer.job(tensors[source], tensors.get(number))
        return [Job("real_convolve", job, (layer,))]

    return Operation(number, (source,), build, emits=True, any_layout=layer.reads(meta))


def linear(graph: Graph, number: int) -> Operation | None:
    """A linear layer of rows, and the affine map before it."""
    step = graph.steps[number - 1]
    weight = _floats(graph, step.arguments[1])
    if weight is None or not isinstance(step.arguments[0], Value):
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
    if not isinstance(chain.at, Value):
        return None
    source, meta = chain.at.number, graph.metas[chain.at.number]
    if meta.dim() != 2 or meta.dtype != torch.float32:
        return None
    layer = RowLinear(weight.float() if whole is None else whole, bias, scale=outputs)

    def build(tensors: Mapping[Resource, Tensor]) -> list[Job]:
        return [Job("linear", layer.job(tensors[source], tensors[number]), (layer,))]

    return Operation(number, (source,), build)


def pooling(graph: Graph, number: int) -> Operation | None:
    """Maxima or averages of windows, with the PReLU before them."""
    step = graph.steps[number - 1]
    average = step.operation == "avg_pool2d"
    kernel, stride, padding, ceil_mode, _, divisor = pooling_arguments(step)
    if average:
        plain = padding == (0, 0) and divisor is None
    else:
        plain, ceil_mode = pair(_at(step, 4), 1) == (1, 1), bool(_at(step, 5))
    if not plain or not graph.is_map(Value(number)):
        return None
    chain = Chain.from_value(graph, step.arguments[0])
    channels = graph.shape(number)[1]
    before = chain.slope(channels)
    if not isinstance(chain.at, Value) or not graph.is_map(chain.at):
        return None
    layer = Pool2d(channels, kernel, stride, padding=padding, average=average, ceil_mode=ceil_mode, before=before)
    source = chain.at.number

    def build(tensors: Mapping[Resource, Tensor]) -> list[Job]:
        return [Job("pool", layer.job(tensors[source], tensors.get(number)), (layer,))]

    return Operation(number, (source,), build, emits=True)


def gate(graph: Graph, number: int) -> Operation | None:
    """Squeeze-and-excite behind averages, of one map or of a blend of two."""
    chain = Chain.from_value(graph, Value(number))
    excite = _pointwise(chain, "sigmoid")
    squeeze = None if excite is None else _pointwise(chain, "relu")
    if excite is None or squeeze is None:
        return None
    own, other, mix = _blend(chain, squeeze[0].shape[1])
    if own is None:
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
    if conv is None or weight is None or weight.shape[2:] != (1, 1) or len(conv.arguments) > 3:
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
        chain.at = step.arguments[0]
    step = chain.step("add.Tensor")
    if step is None:
        return (_first_like(graph, chain.at) if _is_average(graph, chain.at) else None), None, None
    own, product = step.arguments[:2]
    inside = Chain(graph, chain.top, product)
    step = inside.step("mul.Tensor")
    for factor, values in () if step is None else (step.arguments[:2], step.arguments[1::-1]):
        inside.at = factor
        difference, mix = inside.step("sub.Tensor"), constant(graph, values, channels)
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
    return whole, scale.flatten()


def _at(step: Step, place: int) -> Argument:
    return step.arguments[place] if place < len(step.arguments) else None
