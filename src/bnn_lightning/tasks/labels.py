"""Labels of a batch: one class an image."""

from torch import Tensor


class LabelError(ValueError):
    """Labels that are not one class an image, or a class that there is not."""


def class_labels(labels: Tensor) -> Tensor:
    """Return the labels of a batch as int64.

    Args:
        labels: As the data module gives them: integers of shape (N,).

    Raises:
        LabelError: Labels of another type or shape.

    Example:
        >>> import torch
        >>> class_labels(torch.tensor([0, 2], dtype=torch.uint8))
        tensor([0, 2])
    """
    if labels.ndim != 1 or labels.is_floating_point():
        raise LabelError(
            f"labels must be integers of shape (N,), one class an image, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}: several classes an image are not supported; of one-hot labels take argmax(1)."
        )
    return labels.long()


def check_classes(labels: Tensor, num_classes: int, *, first: bool) -> None:
    """See that there are the classes of a batch: CUDA ends the process where there is one not.

    Args:
        labels: As the data module gives them.
        num_classes: Number of classes.
        first: Whether it is the first batch of an epoch. Of a GPU no other is looked at, which would wait for it.

    Raises:
        LabelError: Labels of another type or shape, or a class that there is not.
    """
    labels = class_labels(labels)
    if not (first or labels.is_cpu) or not len(labels):
        return
    least, most = (int(value) for value in labels.aminmax())
    if least < 0 or most >= num_classes:
        raise LabelError(
            f"labels must be from 0 to {num_classes - 1} with `num_classes` = {num_classes}, got "
            f"{least if least < 0 else most}."
        )
