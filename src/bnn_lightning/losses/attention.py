"""Attention-transfer loss between a student and a teacher."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from bnn_lightning.losses.norm import length, unit_length
from bnn_lightning.losses.soft import at_least_float32
from bnn_lightning.utils.checks import check_choice

AttentionScale = Literal["unit", "max"]


def attention_map(x: Tensor) -> Tensor:
    """Return the mean over channels of the squares, in float32 or wider.

    Args:
        x: Shape (N, C, H, W).

    Returns:
        Shape (N, H, W).
    """
    return at_least_float32(x).square().mean(1)


def attention_loss(student: Tensor, teacher: Tensor, scale: AttentionScale = "unit", *, eps: float = 1e-12) -> Tensor:
    r"""Difference of the attention maps of two feature maps, averaged over the batch.

    With Q the attention map (`attention_map`) of a sample as a vector, "unit" is the loss of Real-to-Binary,

    .. math:: \frac1N \sum_n \left\| \frac{Q_n}{\|Q_n\|_2} - \frac{Q^T_n}{\|Q^T_n\|_2} \right\|_2

    and "max" that of larq-zoo's training of the same network, :math:`\frac{1}{N H W} \sum_{n,i} (Q_{n,i} / \max_j
    Q_{n,j} - Q^T_{n,i} / \max_j Q^T_{n,j})^2`, for which its weight of 30 is meant.

    Args:
        student: Shape (N, C, H, W).
        teacher: Shape (N, C', H', W'), which is averaged over areas to H x W; no gradient flows to it.
        scale: "unit" or "max".
        eps: Maps up to this length (or this maximum) are taken as zero, without gradient.

    Returns:
        A scalar, in float32 or wider.

    Raises:
        ValueError: Tensors of other shapes, or an unknown scale.

    Example:
        >>> import torch
        >>> x = torch.rand(2, 3, 4, 4)
        >>> attention_loss(x, torch.cat([2 * x, -2 * x], 1)).item() < 1e-6
        True

    References:
        Zagoruyko, Komodakis, Paying more attention to attention, ICLR 2017; Martinez et al., Training binary neural
        networks with real-to-binary convolutions, ICLR 2020.
    """
    check_choice("scale", scale, AttentionScale)
    if student.ndim != 4 or teacher.ndim != 4 or len(student) != len(teacher):
        raise ValueError(
            "`student` and `teacher` must be feature maps (N, C, H, W) of one batch, got "
            f"{list(student.shape)} and {list(teacher.shape)}."
        )
    maps, target = attention_map(student), attention_map(teacher.detach())
    if maps.shape != target.shape:
        target = F.adaptive_avg_pool2d(target[:, None], (maps.shape[1], maps.shape[2]))[:, 0]
    maps, target = maps.flatten(1), target.flatten(1)
    if scale == "unit":
        return length(unit_length(maps, eps) - unit_length(target, eps), -1).mean()
    return (_over_maximum(maps, eps) - _over_maximum(target, eps)).square().mean()


def _over_maximum(x: Tensor, eps: float) -> Tensor:
    maximum = x.amax(-1, keepdim=True)
    return x / maximum.masked_fill(maximum <= eps, float("inf"))
