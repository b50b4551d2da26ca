"""Normalization to unit length, safe for zero vectors."""

import torch
from torch import Tensor


def length(x: Tensor, dim: int | tuple[int, ...] | None = None, *, keepdim: bool = False) -> Tensor:
    """Return the Euclidean length of `x` along `dim`, or of all of it; its gradient at zero is zero."""
    result: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=keepdim)
    return result


def unit_length(x: Tensor, eps: float, *, constant: bool = False) -> Tensor:
    """Scale `x` to length 1 along its last dimension; vectors up to length `eps` become zero, without gradient.

    (Dividing by max(length, eps) instead gives them gradients of size 1 / eps.)

    Args:
        x: Shape (..., D).
        eps: Length up to which a vector counts as zero.
        constant: Take the lengths as constants in backward.

    Returns:
        Tensor like `x`.

    Example:
        >>> unit_length(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 1e-12)
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    norm = length(x.detach() if constant else x, -1, keepdim=True)
    return x / norm.masked_fill(norm <= eps, float("inf"))
