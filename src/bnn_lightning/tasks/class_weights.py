"""Class weights of the hard loss, for sets whose classes differ in size."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from bnn_lightning.distill.base import Distiller

ClassWeights = Literal["balanced"] | Sequence[float] | None


def check_class_weights(class_weights: ClassWeights, num_classes: int, distiller: Distiller) -> ClassWeights:
    """Return class weights that can be used.

    Raises:
        ValueError: Another text than "balanced", a list of another length or of numbers that are not positive, or a
            distiller without a hard loss.
    """
    if class_weights is None:
        return None
    if not distiller.weights.get("hard"):
        raise ValueError(
            f"`class_weights` are of the hard loss, which {type(distiller).__name__} gives the weight 0: leave them "
            "out, or give its `hard` a weight."
        )
    if isinstance(class_weights, str):
        if class_weights != "balanced":
            raise ValueError(f"`class_weights` must be balanced or a list of numbers, got {class_weights!r}.")
        return class_weights
    weights = [float(weight) for weight in class_weights]
    if len(weights) != num_classes:
        raise ValueError(f"`class_weights` must be {num_classes} numbers, one a class, got {len(weights)}: {weights}.")
    if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        raise ValueError(f"`class_weights` must be numbers from 0 on, one of them positive, got {weights}.")
    return weights


def weights_of_classes(class_weights: ClassWeights, datamodule: Any, num_classes: int) -> Tensor | None:
    """Return the weights, (num_classes,), None where there are none.

    Args:
        class_weights: As `check_class_weights` returned them.
        datamodule: Set up for training; counts the images of the classes.
        num_classes: Number of classes.

    Raises:
        ValueError: The data module does not say its labels, or a class has no training image.

    Example:
        >>> class Data:
        ...     def training_labels(self):
        ...         return torch.tensor([0, 0, 0, 1])
        >>> weights_of_classes("balanced", Data(), 2)
        tensor([0.6667, 2.0000])
    """
    if class_weights is None:
        return None
    if not isinstance(class_weights, str):
        return torch.tensor(list(class_weights), dtype=torch.float32)
    if not hasattr(datamodule, "training_labels"):
        raise ValueError(
            f"`class_weights=balanced` needs the labels of the training images, and {type(datamodule).__name__} has no "
            "method `training_labels`: give a list of numbers."
        )
    counts = torch.bincount(datamodule.training_labels().cpu(), minlength=num_classes)
    if not bool(counts.all()):
        empty = (counts == 0).nonzero().flatten().tolist()
        raise ValueError(f"`class_weights=balanced`: there is no training image of the classes {empty}.")
    return (counts.sum() / (num_classes * counts)).to(torch.float32)
