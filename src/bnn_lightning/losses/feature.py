"""Feature losses between intermediate maps of a student and a teacher."""

from typing import Any, Literal

import torch
from torch import Tensor

from bnn_lightning.losses.norm import length, unit_length
from bnn_lightning.losses.soft import at_least_float32
from bnn_lightning.utils.checks import check_choice

Normalization = Literal["reference", "per_sample"]


class _ChannelSpatialMeans(torch.autograd.Function):
    """Means over space and over channels; their two gradients reach `x` in one pass instead of three."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(x.dtype, torch.float32)
        return x.mean((2, 3), dtype=dtype), x.mean(1, dtype=dtype).flatten(1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        (x,) = inputs
        ctx.shape, ctx.dtype = x.shape, x.dtype
        ctx.channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()

    @staticmethod
    def backward(ctx: Any, grad_channel: Tensor, grad_spatial: Tensor) -> Tensor:
        _, channels, height, width = ctx.shape
        channel: Tensor = (grad_channel / (height * width)).to(ctx.dtype)
        spatial: Tensor = (grad_spatial / channels).to(ctx.dtype).unflatten(1, (height, width))
        # Broadcast in the order of the memory of `x`: the sum then has its memory format.
        if ctx.channels_last:
            return (channel[:, None, None, :] + spatial[:, :, :, None]).permute(0, 3, 1, 2)
        return channel[:, :, None, None] + spatial[:, None]


def channel_spatial_means(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of a feature map over space and over channels, in float32 or wider.

    Args:
        x: Shape (N, C, H, W).

    Returns:
        Shapes (N, C) and (N, H * W).
    """
    means: tuple[Tensor, Tensor] = _ChannelSpatialMeans.apply(x)
    return means


def unit_difference(
    student: Tensor, teacher: Tensor, normalization: Normalization = "reference", *, eps: float = 1e-12
) -> Tensor:
    r"""Difference of vectors that are scaled to unit length; one of the two terms of `channel_spatial_loss`.

    Args:
        student: Shape (..., N, D).
        teacher: Same shape; no gradient flows to it.
        normalization: "reference" is :math:`\|\hat S - \hat T\|_F / (D N)`, "per_sample" the mean over N of
            :math:`\|\hat s_n - \hat t_n\|`.
        eps: Vectors up to this length are taken as zero, without gradient.

    Returns:
        Shape (...).
    """
    reference = normalization == "reference"
    difference = unit_length(student, eps, constant=reference) - unit_length(teacher.detach(), eps)
    if reference:
        return length(difference, (-2, -1)) / (student.shape[-1] * student.shape[-2])
    return length(difference, -1).mean(-1)


def channel_spatial_loss(
    student: Tensor, teacher: Tensor, normalization: Normalization = "reference", *, eps: float = 1e-12
) -> Tensor:
    r"""Difference of channel means and of spatial means, each scaled to unit length sample by sample.

    With :math:`c_n \in R^C` the means over space and :math:`p_n \in R^{HW}` the means over channels, and a hat for
    division by the length, "reference" is the loss as published,

    .. math:: \frac1N \left( \frac{\|\hat C - \hat C^T\|_F}{C} + \frac{\|\hat P - \hat P^T\|_F}{HW} \right)

    (Frobenius norms over the whole batch, of each rank under data parallelism; the student's lengths are constants in
    backward), whose gradient is some 1e-4 of the cross-entropy's. "per_sample" is

    .. math:: \frac1N \sum_n \left( \|\hat c_n - \hat c^T_n\| + \|\hat p_n - \hat p^T_n\| \right)

    with the full gradient: about 0.1 of the cross-entropy's, whatever the batch and the layer.

    Args:
        student: Shape (N, C, H, W).
        teacher: Same shape; no gradient flows to it.
        normalization: "reference" or "per_sample".
        eps: Vectors up to this length are taken as zero, without gradient.

    Returns:
        A scalar, in float32 or wider.

    Example:
        >>> x = torch.rand(2, 3, 4, 4)
        >>> channel_spatial_loss(x, 5 * x).item() < 1e-6
        True

    References:
        Zeng et al., SKD-BNN, Applied Intelligence 54, 2024.
    """
    check_choice("normalization", normalization, Normalization)
    if student.ndim != 4 or student.shape != teacher.shape:
        raise ValueError(
            f"`student` and `teacher` must have one shape (N, C, H, W), got {list(student.shape)} and "
            f"{list(teacher.shape)}; `flat_feature_loss` takes features without spatial dimensions."
        )
    pairs = zip(channel_spatial_means(student), channel_spatial_means(teacher.detach()), strict=True)
    channel, spatial = (unit_difference(a, b, normalization, eps=eps) for a, b in pairs)
    return channel + spatial


def flat_feature_loss(
    student: Tensor, teacher: Tensor, normalization: Normalization = "reference", *, eps: float = 1e-12
) -> Tensor:
    r"""Difference of features without pooling, for fully connected layers.

    "reference" is :math:`2 \|F - F^T\|_F / (D N)` with the Frobenius norm over the whole batch (of each rank under data
    parallelism) and without scaling to unit length, as published; "per_sample" the mean over samples of
    :math:`\|\hat f_n - \hat f^T_n\|`.

    Args:
        student: Shape (N, ...), flattened to (N, D).
        teacher: Same shape; no gradient flows to it.
        normalization: "reference" or "per_sample".
        eps: With "per_sample", vectors up to this length are taken as zero, without gradient.

    Returns:
        A scalar, in float32 or wider.

    Example:
        >>> flat_feature_loss(torch.full((1, 4), 2.0), torch.zeros(1, 4)).item()  # 2 * 4 / (4 * 1)
        2.0

    References:
        Zeng et al., SKD-BNN, Applied Intelligence 54, 2024 (its network for MNIST).
    """
    check_choice("normalization", normalization, Normalization)
    if student.shape != teacher.shape:
        raise ValueError(
            f"`student` and `teacher` must have one shape, got {list(student.shape)} and {list(teacher.shape)}."
        )
    student, teacher = (at_least_float32(x.flatten(1)) for x in (student, teacher.detach()))
    if normalization == "per_sample":
        return unit_difference(student, teacher, normalization, eps=eps)
    return 2 * length(student - teacher) / student.numel()
