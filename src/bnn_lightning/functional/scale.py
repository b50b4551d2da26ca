"""Standardized latent weights and the channel scales that follow a binary dot product."""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor


def libra_standardise(weight: Tensor, eps: float = 1e-8) -> Tensor:
    r"""Center and standardize each output channel: `(w - mean) / std` over its n weights.

    The standard deviation is the unbiased one (n - 1), with `eps` added to its square, so that a constant channel
    (one of a single weight, too) gives zeros instead of NaN.

    Args:
        weight: Shape (out_channels, ...).
        eps: Added to the variance.

    Returns:
        Tensor of the shape of `weight`; gradients flow through mean and deviation.

    Example:
        >>> libra_standardise(torch.tensor([[1.0, 2.0, 3.0]]))
        tensor([[-1.,  0.,  1.]])

    References:
        Qin et al., IR-Net, CVPR 2020, equation 5.
    """
    shape = weight.shape[1:]
    count = shape.numel()
    # torch's layer norm is this formula with the biased deviation, in one fused kernel each way.
    biased = F.layer_norm(weight, shape, eps=eps * max(count - 1, 1) / count)
    return biased * math.sqrt((count - 1) / count)


def power_of_two_scale(latent: Tensor) -> Tensor:
    r"""Return `2 ^ round(log2(mean |latent|))` of each output channel (round half to even); 1 for a channel of zeros.

    Args:
        latent: Shape (out_channels, ...).

    Returns:
        Shape (out_channels,), without gradient.

    Example:
        >>> power_of_two_scale(torch.tensor([[0.5, -0.4], [3.0, -3.0], [0.0, 0.0]]))
        tensor([0.5000, 4.0000, 1.0000])

    References:
        Qin et al., IR-Net, CVPR 2020, equation 7.
    """
    mean = latent.detach().abs().flatten(1).mean(1)
    return torch.exp2(torch.log2(torch.where(mean > 0, mean, 1.0)).round())


def xnor_scale(weight: Tensor) -> Tensor:
    r"""Return `mean |w|` of each output channel, with its gradient.

    Args:
        weight: Shape (out_channels, ...).

    Returns:
        Shape (out_channels,).

    Example:
        >>> xnor_scale(torch.tensor([[0.5, -1.5]]))
        tensor([1.])

    References:
        Rastegari et al., XNOR-Net, ECCV 2016, equation 6.
    """
    return weight.abs().flatten(1).mean(1)


class _DividedGradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, divisor: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (divisor,) = ctx.saved_tensors
        return grad / divisor, None


def divide_gradient(x: Tensor, divisor: Tensor) -> Tensor:
    r"""Return `x`; its gradient is divided.

    Args:
        x: Shape (out_channels, ...).
        divisor: Shape (out_channels,), not negative; what is smaller than the least normal number counts as that.

    Example:
        >>> x = torch.ones(2, 3, requires_grad=True)
        >>> divide_gradient(x, torch.tensor([0.5, 2.0])).sum().backward()
        >>> x.grad[:, 0]
        tensor([2.0000, 0.5000])
    """
    divisor = divisor.detach().clamp(min=torch.finfo(divisor.dtype).tiny)
    return cast(Tensor, _DividedGradient.apply(x, divisor.view(-1, *[1] * (x.dim() - 1))))
