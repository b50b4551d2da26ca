"""Weights and activations of ReCU: standardized, and weights clamped to the quantiles of a Laplace distribution."""

import math
from typing import Any, cast

import torch
from torch import Tensor

EPS = 1e-5


def recu_standardize(weight: Tensor, eps: float = EPS) -> Tensor:
    r"""Center each output channel and scale it to the deviation of a Laplace distribution of unit scale, doubled.

    `2 sqrt(2) (w - mean) / sqrt(var + eps)` with the unbiased variance, which is 0 for a channel of one weight.

    Args:
        weight: Shape (out_channels, ...).
        eps: Added to the variance.

    Returns:
        Tensor of the shape of `weight`; gradients flow through mean and variance.

    Example:
        >>> recu_standardize(torch.tensor([[1.0, 2.0, 3.0]]), eps=0.0)
        tensor([[-2.8284,  0.0000,  2.8284]])

    References:
        Xu et al., ReCU, ICCV 2021: its standardization of weights.
    """
    flat = weight.flatten(1)
    centered = flat - flat.mean(1, keepdim=True)
    variance = centered.square().sum(1, keepdim=True) / max(flat.shape[1] - 1, 1)
    return (centered * (2 * math.sqrt(2) / (variance + eps).sqrt())).view_as(weight)


def recu_clamp(latent: Tensor, tau: Tensor) -> Tensor:
    r"""Clamp standardized weights to `[-Q, Q]`, `Q = -mean|w| ln(2 - 2 tau)` over the layer; Q has no gradient.

    Q is the tau-quantile of a Laplace distribution whose scale is `mean|w|`. Gradients are zero outside.

    Args:
        latent: Standardized weights, any shape.
        tau: A 0-dimensional tensor, above 0.5 and below 1.

    Example:
        >>> recu_clamp(torch.tensor([-3.0, 0.5, 1.0]), torch.tensor(0.85))
        tensor([-1.8060,  0.5000,  1.0000])

    References:
        Xu et al., ReCU, ICCV 2021: the rectified clamp unit, with Q(tau) of a Laplace distribution.
    """
    limit = -latent.detach().abs().mean() * torch.log(2 - 2 * tau).to(latent.dtype)
    return latent.clamp(-limit, limit)


def image_standardize(x: Tensor, eps: float = EPS) -> Tensor:
    r"""Divide each sample by `sqrt(var + eps)`, its unbiased variance over all but the first dimension.

    Args:
        x: Shape (N, ...).
        eps: Added to the variance.

    Example:
        >>> image_standardize(torch.tensor([[1.0, 5.0]]), eps=0.0)
        tensor([[0.3536, 1.7678]])

    References:
        Xu et al., ReCU, ICCV 2021: its published code.
    """
    if torch.compiler.is_compiling():
        return x * _per_image(_statistics(x, eps)[1], x)
    return cast(Tensor, _ImageStandardize.apply(x, eps))


class _ImageStandardize(torch.autograd.Function):
    """Half of the passes over the map that torch's graph takes backwards."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, eps: float) -> Tensor:
        return x * _per_image(_statistics(x, eps)[1], x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.eps = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        dtype = x.dtype
        if dtype == torch.float16:  # whose range the factor leaves
            x, grad = x.float(), grad.float()
        mean, inverse = _statistics(x, ctx.eps)
        factor = (grad * x).sum(tuple(range(1, x.dim()))) * inverse**3 / _degrees(x)
        of_x = grad * _per_image(inverse, x)  # first, as it may be one of many for one x
        return of_x.addcmul_(_per_image(mean, x) - x, _per_image(factor, x)).to(dtype), None


def _statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the mean of each sample, and the inverse of `sqrt(var + eps)`, (N,)."""
    # Elements in the order of memory: in another one they would be copied first.
    rows = x.movedim(1, -1).flatten(1) if x.dim() > 2 and x.stride(1) == 1 else x.flatten(1)
    mean = rows.mean(1, keepdim=True)
    norm = torch.linalg.vector_norm(rows - mean, dim=1, dtype=torch.promote_types(x.dtype, torch.float32))
    return mean.flatten(), (norm.square() / _degrees(x) + eps).rsqrt()


def _degrees(x: Tensor) -> int:
    return max(math.prod(x.shape[1:]) - 1, 1)


def _per_image(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
