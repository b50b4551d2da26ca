"""The operations that a packed file may name: binary convolution and linear layer, and a list of torch's own."""

from collections.abc import Callable

import torch
from torch import Tensor

from bnn_lightning.deploy.kernels.conv2d_int8 import byte_conv2d

_ATEN = torch.ops.aten
# The name in a file, and what it calls. All are pure: they write into none of their arguments.
TORCH_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    str(overload.name()).removeprefix("aten::"): overload  # type: ignore[no-untyped-call]
    for overload in (
        _ATEN.adaptive_avg_pool2d.default,
        _ATEN.add.Scalar,
        _ATEN.add.Tensor,
        _ATEN.avg_pool2d.default,
        _ATEN.cat.default,
        _ATEN.clamp.default,
        _ATEN.conv2d.default,
        _ATEN.div.Scalar,
        _ATEN.div.Tensor,
        _ATEN.expand.default,
        _ATEN.gelu.default,
        _ATEN.hardsigmoid.default,
        _ATEN.hardswish.default,
        _ATEN.hardtanh.default,
        _ATEN.leaky_relu.default,
        _ATEN.linear.default,
        _ATEN.log_softmax.int,
        _ATEN.max_pool2d.default,
        _ATEN.mean.dim,
        _ATEN.mul.Scalar,
        _ATEN.mul.Tensor,
        _ATEN.neg.default,
        _ATEN.pad.default,
        _ATEN.permute.default,
        _ATEN.prelu.default,
        _ATEN.relu.default,
        _ATEN.select.int,
        _ATEN.sigmoid.default,
        _ATEN.silu.default,
        _ATEN.slice.Tensor,
        _ATEN.softmax.int,
        _ATEN.squeeze.dim,
        _ATEN.squeeze.dims,
        _ATEN.sub.Scalar,
        _ATEN.sub.Tensor,
        _ATEN.sum.dim_IntList,
        _ATEN.t.default,
        _ATEN.tanh.default,
        _ATEN.transpose.int,
        _ATEN.unsqueeze.default,
    )
}


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Scale and shift the channels of (N, C, ...): a batch norm in evaluation."""
    shape = (1, -1) + (1,) * (x.dim() - 2)
    return torch.addcmul(shift.view(shape), x, scale.view(shape))


def reshape(x: Tensor, shape: list[int]) -> Tensor:
    """View or copy in another shape."""
    return x.reshape(shape)


def dequantize(weight: Tensor, scale: Tensor) -> Tensor:
    """Multiply int8 weights, (out_channels, ...), with the scale of each output channel."""
    return weight.float() * scale.view(-1, *[1] * (weight.dim() - 1))


OPERATIONS: dict[str, Callable[..., Tensor]] = {
    **TORCH_OPERATIONS,
    "affine": affine,
    "byte_conv2d": byte_conv2d,
    "dequantize": dequantize,
    "reshape": reshape,
}
