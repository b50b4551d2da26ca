"""Elementwise operations whose backward passes take a fraction of the time of torch's on a CPU."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from bnn_lightning.functional import native

_aten = torch.ops.aten
# The functions below follow torch's override protocol, as `torch.nn.functional` does: a symbolic trace holds a call of
# the function, not of what it chooses by memory format and shape. Compilers, which fuse by themselves, see torch's own
# operations.


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """View (C,) values so that they broadcast against dimension 1 of `x`, in the dtype of `x`."""
    return values.to(x.dtype).view(-1, *[1] * (x.dim() - 2))


class _PReLU(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, slope: Tensor) -> Tensor:
        return cast(Tensor, _aten._prelu_kernel(x, per_channel(slope, x)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, slope = ctx.saved_tensors
        # The gradient in two parts, each zero where the other is not. torch's own kernel takes one element at a time.
        positive = _aten.threshold_backward(grad, x, 0)
        negative = grad - positive
        of_slope = _sum_to_channels(negative, x, slope)
        return positive.addcmul_(negative, per_channel(slope, x)), of_slope


def _sum_to_channels(grad: Tensor, x: Tensor, values: Tensor) -> Tensor:
    """Sum `grad * x` to the shape of `values`, (C,) or (1,), and in its dtype."""
    # Over the map first: in half precision the batch is summed in that of the values.
    by_image = (grad * x).sum(tuple(range(2, x.dim()))) if x.dim() > 2 else grad * x
    sums = by_image.to(values.dtype).sum(0)
    return sums if values.numel() == x.shape[1] else sums.sum().view_as(values)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    r"""Return `x` where it is positive, `slope * x` elsewhere.

    Args:
        x: Shape (N, C, ...).
        slope: Shape (C,) or (1,).

    Returns:
        Tensor like `x`, in its dtype under autocast, too.

    Example:
        >>> prelu(torch.tensor([[-1.0, -1.0, 2.0]]), torch.tensor([0.5, -3.0, 0.25]))
        tensor([[-0.5000,  3.0000,  2.0000]])

    References:
        He et al., Delving Deep into Rectifiers, ICCV 2015, equation 1.
    """
    if torch.compiler.is_compiling():
        return F.prelu(x, slope.to(x.dtype))
    if has_torch_function((x, slope)):
        return handle_torch_function(prelu, (x, slope), x, slope)
    if not x.is_cpu:
        return F.prelu(x, slope.to(x.dtype))
    return cast(Tensor, _PReLU.apply(x, slope))


class _ClampInPlace(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, low: float, high: float) -> Tensor:
        return x.clamp_(low, high)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, float], output: Tensor) -> None:
        ctx.mark_dirty(output)
        ctx.save_for_backward(output)
        ctx.limits = inputs[1:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (output,) = ctx.saved_tensors
        return _aten.hardtanh_backward(grad, output, *ctx.limits), None, None


def hardtanh_(x: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    r"""Clamp to [low, high] in place; the gradient is 0 where `x <= low` or `x >= high`.

    torch's own keeps a copy of `x` for the backward pass, which the result tells as well.

    Args:
        x: Any shape.
        low: Lower limit.
        high: Upper limit.

    Example:
        >>> hardtanh_(torch.tensor([-2.0, 0.5, 3.0]))
        tensor([-1.0000,  0.5000,  1.0000])
    """
    if has_torch_function((x,)):
        return handle_torch_function(hardtanh_, (x,), x, low, high)
    if native.is_seen():
        return F.hardtanh_(x, low, high)
    return cast(Tensor, _ClampInPlace.apply(x, low, high))


def maxout(x: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    r"""Scale positive and negative values by learnable slopes: `positive relu(x) - negative relu(-x)`.

    Args:
        x: Shape (N, C, ...).
        positive: Slopes where x is positive, (C,).
        negative: Slopes where x is negative, (C,).

    Example:
        >>> maxout(torch.tensor([[-2.0], [2.0]]), torch.tensor([1.0]), torch.tensor([0.25])).tolist()
        [[-0.5], [2.0]]

    References:
        Tu et al., AdaBin, ECCV 2022: its nonlinearity.
    """
    if not torch.compiler.is_compiling():
        if has_torch_function((x, positive, negative)):
            return handle_torch_function(maxout, (x, positive, negative), x, positive, negative)
        if x.is_cpu:
            return cast(Tensor, _Maxout.apply(x, positive, negative))
    return per_channel(positive, x) * F.relu(x) - per_channel(negative, x) * F.relu(-x)


class _Maxout(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        above = F.relu(x)
        return (above * per_channel(positive, x)).addcmul_(x.clamp(max=0), per_channel(negative, x))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, positive, negative = ctx.saved_tensors
        # Zero where x is 0, on both sides.
        above, below = _aten.threshold_backward(grad, x, 0), _aten.threshold_backward(grad, -x, 0)
        of_x = (above * per_channel(positive, x)).addcmul_(below, per_channel(negative, x))
        return of_x, _sum_to_channels(above, x, positive), _sum_to_channels(below, x, negative)


class _SpatialMean(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        # The fastest kernel that torch has for this layout; `mean` makes a float32 copy of half precision first.
        if x.is_cpu and x.is_contiguous(memory_format=torch.channels_last):
            return F.avg_pool2d(x, (x.shape[2], x.shape[3]))
        return x.mean((2, 3), keepdim=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # A view. torch's own would write out a map, and in the wrong layout: what it is added to would lose
        # channels_last, and the batch norm before that a fast backward pass.
        return cast(Tensor, grad / (ctx.shape[2] * ctx.shape[3])).expand(ctx.shape)


def spatial_mean(x: Tensor) -> Tensor:
    r"""Average over height and width.

    Args:
        x: Shape (N, C, H, W).

    Returns:
        Shape (N, C, 1, 1).

    Example:
        >>> spatial_mean(torch.arange(8.0).view(1, 2, 2, 2)).flatten()
        tensor([1.5000, 5.5000])
    """
    if torch.compiler.is_compiling():
        return x.mean((2, 3), keepdim=True)
    if has_torch_function((x,)):
        return handle_torch_function(spatial_mean, (x,), x)
    return cast(Tensor, _SpatialMean.apply(x))


def spatial_mean_of_halves(x: Tensor) -> Tensor:
    r"""Average over height and width of the 2x2 averages; a last odd row or column is averaged by itself.

    Where height and width are even it is the average of the map, for a fraction of the work.

    Args:
        x: Shape (N, C, H, W).

    Returns:
        Shape (N, C, 1, 1).

    Example:
        >>> spatial_mean_of_halves(torch.arange(6.0).view(1, 1, 2, 3)).flatten()
        tensor([2.7500])
    """
    if not torch.compiler.is_compiling():
        if has_torch_function((x,)):
            return handle_torch_function(spatial_mean_of_halves, (x,), x)
        if x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0:
            return spatial_mean(x)
    return spatial_mean(F.avg_pool2d(x, 2, ceil_mode=True))


class _Concatenate(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*parts: Tensor) -> Tensor:
        return torch.cat(parts, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.channels = [part.shape[1] for part in inputs]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        # Copies, dense in the layout that they have: torch's are views, on which the backward pass of a batch norm is
        # ten times slower.
        return tuple(part.clone() for part in torch.split(grad, ctx.channels, 1))


def concatenate(parts: Sequence[Tensor]) -> Tensor:
    """Join tensors (N, C_i, ...) along the channels.

    Example:
        >>> concatenate([torch.zeros(2, 3, 4, 4), torch.ones(2, 1, 4, 4)]).shape
        torch.Size([2, 4, 4, 4])
    """
    if torch.compiler.is_compiling():
        return torch.cat(tuple(parts), 1)
    if has_torch_function(tuple(parts)):
        return handle_torch_function(concatenate, tuple(parts), parts)
    return cast(Tensor, _Concatenate.apply(*parts))
