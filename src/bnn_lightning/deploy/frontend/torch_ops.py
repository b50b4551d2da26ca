"""The operations of a graph in torch, except the binary convolution, which is a layer."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bnn_lightning.deploy.frontend.byte_conv import byte_conv2d
from bnn_lightning.deploy.ir.graph import Node
from bnn_lightning.deploy.ir.operations import OPERATIONS

_ATEN = torch.ops.aten


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Scale and shift the channels of (N, C, ...): a batch norm in evaluation."""
    shape = (1, -1) + (1,) * (x.dim() - 2)
    return torch.addcmul(shift.view(shape), x, scale.view(shape))


def dequantize(weight: Tensor, scale: Tensor) -> Tensor:
    """Multiply int8 weights, (out_channels, ...), with the scale of each output channel."""
    return weight.float() * scale.view(-1, *[1] * (weight.dim() - 1))


def layer_norm(
    x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, *, dims: Sequence[int], eps: float = 1e-5
) -> Tensor:
    """Normalize each element over the dimensions `dims`, then scale and shift."""
    dims = sorted(range(x.dim())[dim] for dim in dims)
    if not 0 <= eps < math.inf or 0 in (x.shape[dim] for dim in dims):
        raise ValueError(f"A layer norm needs features and an `eps` from 0 on, got {tuple(x.shape)} and {eps}.")
    order = [*(dim for dim in range(x.dim()) if dim not in dims), *dims]
    normalized = torch.nn.functional.layer_norm(x.permute(order), [x.shape[dim] for dim in dims], scale, shift, eps)
    return normalized.permute([order.index(dim) for dim in range(x.dim())])


# Operations that torch has: its operation, and the names of attributes that differ from torch's.
_OF_TORCH: dict[str, tuple[Callable[..., Tensor], dict[str, str]]] = {
    "adaptive_avg_pool2d": (_ATEN.adaptive_avg_pool2d.default, {}),
    "adaptive_max_pool2d": (lambda *args, **kwargs: _ATEN.adaptive_max_pool2d.default(*args, **kwargs)[0], {}),
    "amax": (_ATEN.amax.default, {"dims": "dim"}),
    "avg_pool2d": (_ATEN.avg_pool2d.default, {}),
    "clamp": (_ATEN.clamp.default, {"low": "min", "high": "max"}),
    "conv2d": (_ATEN.conv2d.default, {}),
    "expand": (_ATEN.expand.default, {"shape": "size"}),
    "gelu": (_ATEN.gelu.default, {}),
    "hardsigmoid": (_ATEN.hardsigmoid.default, {}),
    "hardswish": (_ATEN.hardswish.default, {}),
    "leaky_relu": (_ATEN.leaky_relu.default, {}),
    "linear": (_ATEN.linear.default, {}),
    "log_softmax": (_ATEN.log_softmax.int, {}),
    "max_pool2d": (_ATEN.max_pool2d.default, {}),
    "mean": (_ATEN.mean.dim, {"dims": "dim"}),
    "neg": (_ATEN.neg.default, {}),
    "pad": (_ATEN.pad.default, {"padding": "pad"}),
    "permute": (_ATEN.permute.default, {}),
    "prelu": (_ATEN.prelu.default, {}),
    "relu": (_ATEN.relu.default, {}),
    "reshape": (_ATEN.reshape.default, {}),
    "select": (_ATEN.select.int, {}),
    "sigmoid": (_ATEN.sigmoid.default, {}),
    "silu": (_ATEN.silu.default, {}),
    "slice": (_ATEN.slice.Tensor, {}),
    "softmax": (_ATEN.softmax.int, {}),
    "squeeze": (_ATEN.squeeze.dims, {"dims": "dim"}),
    "sum": (_ATEN.sum.dim_IntList, {"dims": "dim"}),
    "tanh": (_ATEN.tanh.default, {}),
    "transpose": (_ATEN.transpose.int, {}),
    "unsqueeze": (_ATEN.unsqueeze.default, {}),
}
_ARITHMETIC: dict[str, Callable[..., Tensor]] = {
    "add": _ATEN.add.Tensor,
    "sub": _ATEN.sub.Tensor,
    "mul": _ATEN.mul.Tensor,
    "div": _ATEN.div.Tensor,
}
_OURS: dict[str, Callable[..., Tensor]] = {
    "affine": affine,
    "byte_conv2d": byte_conv2d,
    "dequantize": dequantize,
    "layer_norm": layer_norm,
}


def compute(node: Node, inputs: Sequence[Tensor]) -> Tensor:
    """Compute a node in torch.

    Args:
        node: A node of any operation but the binary convolution.
        inputs: Its inputs.
    """
    name, given = node.operation, node.attributes
    if name == "cat":
        return torch.cat(list(inputs), node["dim"])
    if name in _ARITHMETIC:
        return _ARITHMETIC[name](*inputs, **given)
    if name in _OURS:
        return _OURS[name](*inputs, **given)
    function, names = _OF_TORCH[name]
    attributes: dict[str, Any] = {key: node[key] for key in OPERATIONS[name].attributes}
    return function(*inputs, **{names.get(key, key): value for key, value in attributes.items()})
