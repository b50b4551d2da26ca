"""Native forms of the operations of a graph: which of them the project's kernels compute, and with what."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from bnn_lightning.deploy.frontend.layers import PackedConv2d
from bnn_lightning.deploy.frontend.torch_library import conv_geometry, packing_job, window_offsets
from bnn_lightning.deploy.ir.graph import Input, Value
from bnn_lightning.deploy.kernels.abi import Convolution
from bnn_lightning.deploy.kernels.layout import pointer
from bnn_lightning.deploy.planner.conv import convolution_and_maxima, gate, linear, pooling, real_convolution
from bnn_lightning.deploy.planner.elementwise import combination, concatenation
from bnn_lightning.deploy.planner.pad import padding
from bnn_lightning.deploy.planner.reduce import mean
from bnn_lightning.deploy.planner.typed_graph import Half, Job, Operation, Resource, Signs, TypedGraph
from bnn_lightning.functional.pack import BLOCK, num_words, spread

Form = Callable[[TypedGraph, int], Operation | None]


def native_form(graph: TypedGraph, number: int) -> Operation | None:
    """Return what computes a value natively; None: it stays with torch.

    Args:
        graph: Of the graph.
        number: Of the value: that of its node, counted from 1.
    """
    for form in FORMS.get(graph.nodes[number - 1].operation, ()):
        operation = form(graph, number)
        if operation is not None:
            return operation
    return None


def convolution(graph: TypedGraph, number: int) -> Operation | None:
    """A binary convolution on signs that lie packed, with all that its layer has absorbed."""
    node = graph.nodes[number - 1]
    x, added = node.inputs[0], node.input(1)
    layer = graph.network.layer(number)
    if not graph.is_map(x) or not (added is None or graph.is_map(added)):
        return None
    assert isinstance(x, Value)
    whole = layer.groups == 1 or layer.out_channels // layer.groups % BLOCK == 0
    residual, residual_channels = _repeated(graph, added, whole)
    channels = layer.groups * layer.in_channels
    threshold = torch.unflatten(layer.threshold, 0, (layer.groups, -1))[:, : layer.in_channels].reshape(channels)
    signs = graph.signs(x.number, threshold, layer.groups, layer.padding, layer.pad_value == 1)

    def build(tensors: Mapping[Resource, Tensor]) -> list[Job]:
        out = tensors.get(number)
        added = None if residual is None else tensors[residual]
        offsets = window_offsets(signs.shape[2], *layer.weight.shape[::3], layer.kernel_size, layer.dilation)
        job = _convolution_job(layer, offsets, signs.shape, graph.shape(x.number), graph.shape(number))
        job.x = tensors[signs].data_ptr()
        job.out = None if out is None else out.data_ptr()
        job.residual = None if added is None else added.data_ptr()
        job.residual_channels = residual_channels
        return [Job("convolve", job, (layer, offsets))]

    reads = (signs,) if residual is None else (signs, residual)
    over = () if residual is None or residual_channels else (residual,)
    return Operation(number, reads, build, emits=whole, sums=whole, blocks=layer.groups, over=over)


def _repeated(graph: TypedGraph, added: Input | None, whole: bool) -> tuple[int | None, int]:
    """Return what is added, and its channels where these are read again and again: a concatenation with itself."""
    if not isinstance(added, Value):
        return None, 0
    node = graph.node_of(added)
    if whole and node is not None and node.operation == "cat" and node["dim"] == 1:
        first = node.inputs[0]
        alike = all(part == first for part in node.inputs)
        if alike and isinstance(first, Value) and graph.is_map(first) and graph.shape(first.number)[1] % BLOCK == 0:
            return first.number, graph.shape(first.number)[1]
    return added.number, 0


def _convolution_job(
    layer: PackedConv2d, offsets: Tensor, words: tuple[int, ...], shape: tuple[int, ...], out_shape: tuple[int, ...]
) -> Convolution:
    """Return the job of a layer, without the places of input and output."""
    top, _, left, _ = layer.padding
    zeros = layer.pad_value == 0 and any(layer.padding)
    padded = [top, left, shape[2], shape[3]] if zeros else []
    fixed = (layer.in_channels, layer.kernel_size, layer.stride, layer.dilation, padded)
    tensors = {"weight": layer.weight, "tap_sums": layer.tap_sums, "offsets": offsets}
    tensors |= {"scale": layer.scale, "bias": layer.bias}
    more = {"gain": layer.gain, "offset": layer.offset, "lift": layer.lift, "slope": layer.slope, "shift": layer.shift}
    tensors |= {name: tensor for name, tensor in more.items() if tensor is not None}
    return Convolution(
        **conv_geometry(words, layer.weight, out_shape, *fixed),
        **{name: tensor.data_ptr() for name, tensor in tensors.items()},
        low=-math.inf if layer.low is None else layer.low,
        high=math.inf if layer.high is None else layer.high,
    )


def packing(graph: TypedGraph, signs: Signs) -> Operation:
    """The packing of signs by itself, where what computes the value cannot do it."""
    words = num_words(signs.channels // signs.groups)
    missing = words * 32 - signs.channels // signs.groups
    split = signs.thresholds().view(signs.groups, -1)
    threshold = torch.nn.functional.pad(split, (0, missing), value=math.inf).flatten()

    def build(tensors: Mapping[Resource, Tensor]) -> list[Job]:
        x, bits = tensors[signs.value], tensors[signs]
        job = packing_job(x, threshold, bits, groups=signs.groups, top=signs.padding[0], left=signs.padding[2])
        return [Job("pack", job, (threshold,))]

    return Operation(result=signs, reads=(signs.value,), build=build, any_layout=True)


def emitting(job: Job, signs: Signs, bits: Tensor, blocks: int) -> Job:
    """Let a job write the signs of its result, too.

    Args:
        job: Its structure has the fields of signs, or `after` in it has.
        signs: What they are.
        bits: Where they go.
        blocks: Groups that the job's parameters are laid out in.
    """
    fields: Any = getattr(job.structure, "after", job.structure)
    threshold = spread(signs.thresholds(), groups=blocks, fill=math.inf)
    _, fields.bits_height, fields.bits_width, fields.bits_words = bits.shape
    fields.bits_top, fields.bits_left = signs.padding[0], signs.padding[2]
    fields.threshold, fields.bits = threshold.data_ptr(), bits.data_ptr()
    return job._replace(keep=(*job.keep, threshold))


def summed(job: Job, sums: Tensor) -> Job:
    """Let a job write the sums of its result, too, of the shape that `sums_shape` gives."""
    fields: Any = job.structure
    fields.sums = sums.data_ptr()
    return job


def halved(job: Job, half: Half, out: Tensor) -> Job:
    """Let a job write averages over 2x2 of its result, too; what is left of an odd side by itself."""
    fields: Any = job.structure
    fields.half, fields.half_slope = out.data_ptr(), pointer(half.slope)
    return job._replace(keep=(*job.keep, half))


# The forms of a graph's operations, by name; the first that fits is taken. A form may compute nodes before its own as
# well, and read what these read: nodes that nothing reads any more are left out.
_LAYERS = (real_convolution, combination)
FORMS: dict[str, tuple[Form, ...]] = {
    "binary_conv2d": (convolution,),
    **dict.fromkeys(("conv2d", "byte_conv2d"), (real_convolution,)),
    **dict.fromkeys(("affine", "prelu", "relu", "clamp"), _LAYERS),
    **dict.fromkeys(("add", "mul"), (combination,)),
    "max_pool2d": (convolution_and_maxima, pooling),
    "avg_pool2d": (pooling,),
    "mean": (mean,),
    "pad": (padding,),
    "linear": (linear,),
    "sigmoid": (gate,),
    "cat": (concatenation,),
}
