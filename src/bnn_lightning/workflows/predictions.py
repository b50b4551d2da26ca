"""Predictions of a network on test images, for the page of a run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from bnn_lightning.report_page.content import Example
from bnn_lightning.workflows.trainer import show_images


@dataclass
class Predictions:
    """Predictions on the images so far.

    Attributes:
        names: Names of the C classes.
        most: Number of images that are kept of each kind.
        confusion: (C, C) numbers of images, true by predicted class.
        in_five: Images whose label is among the five likeliest classes.
        loss: Sum of the cross-entropy.
        first: The first images.
        mistakes: Those with the highest probability of a wrong class, the highest first.
    """

    names: Sequence[str]
    most: int
    confusion: NDArray[np.int64] = field(init=False)
    in_five: int = 0
    loss: float = 0.0
    first: list[Example] = field(default_factory=list)
    mistakes: list[Example] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.confusion = np.zeros((len(self.names), len(self.names)), dtype=np.int64)

    @property
    def images(self) -> int:
        """Number of images that were seen."""
        return int(self.confusion.sum())

    @property
    def top1(self) -> float:
        """Share of the images whose label is the likeliest class."""
        return int(self.confusion.trace()) / max(1, self.images)

    def update(self, images: Tensor, labels: Tensor, logits: Tensor) -> None:
        """Take in a batch.

        Args:
            images: (N, C, H, W) in [0, 1].
            labels: (N,).
            logits: (N, C).
        """
        logits, labels = logits.float().cpu(), labels.cpu()
        probability, predicted = logits.softmax(1).max(1)
        np.add.at(self.confusion, (labels.numpy(), predicted.numpy()), 1)
        five = logits.topk(min(5, len(self.names)), dim=1).indices
        self.in_five += int((five == labels[:, None]).any(1).sum())
        self.loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))

        def example(index: int) -> Example:
            pixels = (255 * images[index].detach().float().cpu().clamp(0, 1)).round().to(torch.uint8)
            shown = pixels.permute(1, 2, 0).numpy() if len(pixels) == 3 else pixels[0].numpy()
            names = self.names[int(labels[index])], self.names[int(predicted[index])]
            return Example(shown, *names, float(probability[index]))

        self.first += [example(i) for i in range(min(len(labels), self.most - len(self.first)))]
        wrong = torch.where(predicted != labels, probability, -1.0)
        surest = wrong.topk(min(self.most, len(labels)))
        self.mistakes += [example(int(i)) for value, i in zip(*surest, strict=True) if value >= 0]
        self.mistakes = sorted(self.mistakes, key=lambda one: -one.probability)[: self.most]


class _Watch(LightningModule):
    def __init__(self, network: nn.Module, predictions: Predictions) -> None:
        super().__init__()
        self.network, self.predictions = network, predictions

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.predictions.update(batch[0], batch[1], self.network(batch[0]))


def predict(
    network: nn.Module,
    datamodule: Any,
    trainer: dict[Any, Any],
    *,
    names: Sequence[str],
    images: int | None,
    examples: int,
) -> Predictions:
    """Run a network on test images.

    Args:
        network: In evaluation mode.
        datamodule: Data module with the test images.
        trainer: The section of the configuration.
        names: Names of the classes.
        images: Number of images, in whole batches; None takes all.
        examples: Number of images of each kind that are kept to be shown.

    Raises:
        UserError: Missing or damaged data.
    """
    found = Predictions(names, examples)
    show_images(_Watch(network, found), datamodule, trainer, images=images)
    return found
