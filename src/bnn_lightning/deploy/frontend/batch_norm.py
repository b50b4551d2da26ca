"""Batch norm in evaluation as an affine map of channels."""

import torch
import torch.nn.functional as F
from torch import Tensor


def batch_norm_affine(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the scale and the shift that torch's batch norm computes with in evaluation, to the bit.

    Args:
        mean: Running mean, (channels,).
        variance: Running variance, (channels,).
        weight: Shape (channels,), or None.
        bias: Shape (channels,), or None.
        eps: Added to the variance.

    Example:
        >>> batch_norm_affine(torch.tensor([2.0]), torch.tensor([3.0]), None, torch.tensor([5.0]), eps=1.0)
        (tensor([0.5000]), tensor([4.]))
    """
    # It is asked for them: where nothing is subtracted it returns the scale of a one, and the shift of a zero. That of
    # the CPU: on a GPU it subtracts first.
    device, mean, variance = mean.device, mean.detach().cpu(), variance.detach().cpu()
    weight, bias = (None if item is None else item.detach().cpu() for item in (weight, bias))
    zeros, ones = torch.zeros_like(mean)[None], torch.ones_like(mean)[None]
    scale = F.batch_norm(ones, zeros[0], variance, weight, None, eps=eps)[0]
    return scale.to(device), F.batch_norm(zeros, mean, variance, weight, bias, eps=eps)[0].to(device)
