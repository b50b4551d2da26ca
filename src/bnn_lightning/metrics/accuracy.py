"""Top-k accuracy over samples (micro average)."""

from torch import Tensor


def count_correct(logits: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """Count the samples whose label is among the k largest logits.

    Args:
        logits: Shape (N, C).
        labels: Shape (N,).
        k: At most C counts; with fewer classes than k every sample is correct.

    Returns:
        0-dimensional int64 tensor, on the device of the logits.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[0.1, 0.9, 0.0], [0.5, 0.2, 0.3]])
        >>> count_correct(logits, torch.tensor([1, 2])), count_correct(logits, torch.tensor([1, 2]), k=2)
        (tensor(1), tensor(2))
    """
    if k == 1:
        return (logits.argmax(1) == labels).sum()
    top = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (top == labels[:, None]).any(1).sum()
