"""Soft cross-entropy with several teachers, weighted by the distance of the student from each."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from bnn_lightning.losses.soft import soft_cross_entropies
from bnn_lightning.utils.checks import check_choice

Weighting = Literal["per_sample", "per_batch"]


def gap_weighted_cross_entropy(
    logits: Tensor, target_logits: Sequence[Tensor], weighting: Weighting = "per_sample", *, scale: float = 0.5
) -> tuple[Tensor, Tensor]:
    r"""Soft cross-entropy with an ensemble of teachers, in which the farther teacher counts more.

    With :math:`\ell_{n,k}` the soft cross-entropy of sample n with teacher k, and the weights :math:`a_{n,\cdot}`
    its softmax over the teachers, constants in backward:

    .. math:: \text{per sample: } \frac{s}{N} \sum_n \sum_k a_{n,k} \ell_{n,k}, \qquad
              \text{per batch: } s \sum_k \Bigl[\frac1N \sum_n \ell_{n,k}\Bigr] \Bigl[\frac1N \sum_n a_{n,k}\Bigr]

    "per_sample" is what the paper describes; "per_batch" is what its released code computes, which averages the losses
    before it weights them. The scale s = 1/2 is the released code's division by the number of teachers (the weights add
    up to 1 already); it halves the gradient. Under data parallelism "per_batch" is that of each rank's part.

    Args:
        logits: Logits of the student, shape (N, C). The gradient flows through these only.
        target_logits: Logits of each teacher, shape (N, C). With one teacher its weight is 1.
        weighting: "per_sample" or "per_batch".
        scale: Factor s of the weighted sum.

    Returns:
        The loss, a scalar in float32 or wider, and the mean weight of each teacher, shape (K,).

    Raises:
        ValueError: No teacher, or an unknown weighting.

    Example:
        A student that is near the first teacher and far from the second learns from the second.

        >>> near, far = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 4.0]])
        >>> _, weights = gap_weighted_cross_entropy(near, [near, far])
        >>> [round(weight, 2) for weight in weights.tolist()]
        [0.02, 0.98]

    References:
        Guo et al., Join the high accuracy club on ImageNet with a binary neural network ticket (BNext), 2022: its
        gap-sensitive ensemble.
    """
    check_choice("weighting", weighting, Weighting)
    if not target_logits:
        raise ValueError("`target_logits` must hold the logits of at least one teacher.")
    losses = torch.stack([soft_cross_entropies(logits, target) for target in target_logits], 1)
    weights = losses.detach().softmax(1)
    means = weights.mean(0)
    loss = (weights * losses).sum(1).mean() if weighting == "per_sample" else (losses.mean(0) * means).sum()
    return scale * loss, means
