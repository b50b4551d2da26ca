"""Scaling to unit length, safe for vectors of length zero."""

import torch
from torch import Tensor


def length(x: Tensor, dim: int | None = None, *, keepdim: bool = False) -> Tensor:
    """Return the Euclidean length of `x` along `dim`, or of all of it; its gradient at zero is zero."""
    result: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=keepdim)
    return result


def inverse_norm(x: Tensor, eps: float) -> Tensor:
    """Return 1 / |x| along the last dimension, and 0 where |x| <= eps: there neither value nor gradient exists.

    (Dividing by max(|x|, eps) instead gives gradients of size 1 / eps.)

    Args:
        x: Shape (..., D).
        eps: Length up to which a vector counts as zero.

    Returns:
        Shape (..., 1).
    """
    norm = length(x, -1, keepdim=True)
    positive = norm > eps
    return torch.where(positive, 1.0 / torch.where(positive, norm, 1.0), 0.0)


def unit_length(x: Tensor, eps: float) -> Tensor:
    """Scale `x`, (..., D), to length 1 along its last dimension; vectors up to length `eps` become zero."""
    return x * inverse_norm(x, eps)
