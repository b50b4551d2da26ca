"""Cluster loss: distance of features to the center of their class."""

from torch import Tensor

from bnn_lightning.losses.norm import unit_length
from bnn_lightning.losses.soft import at_least_float32


def cluster_loss(features: Tensor, labels: Tensor, num_classes: int, *, eps: float = 1e-12) -> Tensor:
    r"""Cosine distance of each feature vector from the mean of its class within the batch.

    .. math:: \frac{1}{N} \sum_n \frac{1 - \cos(f_n, \mu_{y_n})}{2}, \qquad
              \mu_c = \text{mean of } f_n \text{ over } y_n = c \text{ (a constant in backward)}

    Under data parallelism the means are those of each rank's own part of the batch.

    Args:
        features: f, shape (N, D) or (N, ...), which is flattened.
        labels: y, shape (N,), integers below `num_classes`.
        num_classes: Number of classes.
        eps: Vectors up to this length have cosine 0 and no gradient.

    Returns:
        A scalar in [0, 1], in float32 or wider.

    Example:
        >>> import torch
        >>> f = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
        >>> cluster_loss(f, torch.tensor([0, 1, 0]), 2).item()
        0.0

    References:
        Zeng et al., SKD-BNN, Applied Intelligence 54, 2024.
    """
    features = at_least_float32(features.flatten(1))
    constant = features.detach()
    # The cosine does not see the length of the mean, so that the sum does as well, without a division by counts.
    sums = constant.new_zeros(num_classes, constant.shape[1]).index_add_(0, labels, constant)
    centers = unit_length(sums, eps).index_select(0, labels)
    cosine = (unit_length(features, eps) * centers).sum(1)
    return (0.5 - 0.5 * cosine).mean()
