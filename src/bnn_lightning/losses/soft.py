"""Losses with soft labels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bnn_lightning.utils.checks import check_positive


def at_least_float32(x: Tensor) -> Tensor:
    """Return half-precision `x` as float32, anything wider as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def soft_label_kl(
    logits: Tensor, target_logits: Tensor, temperature: float = 4.0, *, valid: Tensor | None = None
) -> Tensor:
    r"""Divergence of the softened prediction from a softened target, averaged over the batch.

    .. math:: \frac{T^2}{N} \sum_n \mathrm{KL}\bigl(\mathrm{softmax}(q_n / T) \,\|\, \mathrm{softmax}(z_n / T)\bigr)

    Args:
        logits: z, shape (N, C). The gradient flows through these only.
        target_logits: q, shape (N, C).
        temperature: T.
        valid: Shape (N,), boolean. Samples that are not valid add 0; the sum is still divided by N, so that the
            gradient of a sample does not depend on its neighbors.

    Returns:
        A scalar, in float32 or wider.

    Raises:
        ValueError: `temperature` is not positive.

    Example:
        >>> z = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> soft_label_kl(z, z).item()
        0.0

    References:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015 (T^2 keeps gradients of one size for all T).
    """
    check_positive("temperature", temperature)
    log_student = F.log_softmax(at_least_float32(logits) / temperature, dim=1)
    log_target = F.log_softmax(at_least_float32(target_logits.detach()) / temperature, dim=1)
    divergence = F.kl_div(log_student, log_target, reduction="none", log_target=True).sum(1)
    if valid is not None:
        divergence = torch.where(valid, divergence, 0.0)
    return divergence.mean() * temperature**2


def soft_cross_entropy(logits: Tensor, target_logits: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Cross-entropy of the softened prediction with a softened target, averaged over the batch.

    .. math:: -\frac{T^2}{N} \sum_n \mathrm{softmax}(q_n / T) \cdot \log \mathrm{softmax}(z_n / T)

    It differs from `soft_label_kl` by the entropy of the target, which has no gradient.

    Args:
        logits: z, shape (N, C). The gradient flows through these only.
        target_logits: q, shape (N, C).
        temperature: T.

    Returns:
        A scalar, in float32 or wider.

    Raises:
        ValueError: `temperature` is not positive.

    Example:
        >>> loss = soft_cross_entropy(torch.zeros(1, 4), torch.tensor([[9.0, 0.0, 0.0, 0.0]]))
        >>> round(loss.item(), 4)  # log 4
        1.3863
    """
    return soft_cross_entropies(logits, target_logits, temperature).mean()


def soft_cross_entropies(logits: Tensor, target_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the terms that `soft_cross_entropy` is the mean of, one a sample, shape (N,)."""
    check_positive("temperature", temperature)
    log_student = F.log_softmax(at_least_float32(logits) / temperature, dim=1)
    target = F.softmax(at_least_float32(target_logits.detach()) / temperature, dim=1)
    return -(target * log_student).sum(1) * temperature**2
