"""Predictions of a network on test images, for a page that shows them."""

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


@dataclass(frozen=True)
class Seen:
    """An image with its label and what the network says.

    Attributes:
        image: (C, H, W) in [0, 1], on the CPU.
        label: Number of its class.
        predicted: Number of the likeliest class.
        probability: Probability of `predicted`.
    """

    image: Tensor
    label: int
    predicted: int
    probability: float

    def example(self, names: Sequence[str]) -> Example:
        """Return it in words and pixels."""
        pixels = (255 * self.image.clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0).numpy()
        shown = pixels[..., 0] if pixels.shape[-1] != 3 else pixels
        return Example(shown, names[self.label], names[self.predicted], self.probability)


@dataclass
class Predictions:
    """Predictions on the images so far.

    Attributes:
        num_classes: C.
        most: Number of images that are kept of each kind.
        confusion: (C, C) numbers of images, true by predicted class.
        in_five: Images whose label is among the five likeliest classes.
        loss: Sum of the cross-entropy.
        first: The first images.
        mistakes: Those with the highest probability of a wrong class, the highest first.
    """

    num_classes: int
    most: int
    confusion: NDArray[np.int64] = field(init=False)
    in_five: int = 0
    loss: float = 0.0
    first: list[Seen] = field(default_factory=list)
    mistakes: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.confusion = np.zeros((self.num_classes, self.num_classes), dtype=np.int64)

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
            logits: (N, num_classes).
        """
        logits, labels = logits.float().cpu(), labels.cpu()
        probability, predicted = logits.softmax(1).max(1)
        np.add.at(self.confusion, (labels.numpy(), predicted.numpy()), 1)
        five = logits.topk(min(5, self.num_classes), dim=1).indices
        self.in_five += int((five == labels[:, None]).any(1).sum())
        self.loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))

        def seen(index: int) -> Seen:
            facts = int(labels[index]), int(predicted[index]), float(probability[index])
            return Seen(images[index].detach().float().cpu(), *facts)

        self.first += [seen(i) for i in range(min(len(labels), self.most - len(self.first)))]
        wrong = torch.where(predicted != labels, probability, -1.0)
        surest = wrong.topk(min(self.most, len(labels)))
        self.mistakes += [seen(int(i)) for value, i in zip(*surest, strict=True) if value >= 0]
        self.mistakes = sorted(self.mistakes, key=lambda one: -one.probability)[: self.most]


class _Watch(LightningModule):
    def __init__(self, network: nn.Module, predictions: Predictions) -> None:
        super().__init__()
        self.network, self.predictions = network, predictions

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.predictions.update(batch[0], batch[1], self.network(batch[0]))


def predict(
    network: nn.Module, datamodule: Any, trainer: dict[Any, Any], *, images: int | None, examples: int
) -> Predictions:
    """Run a network on test images.

    Args:
        network: In evaluation mode.
        datamodule: Data module with the test images.
        trainer: The section of the configuration.
        images: Number of images, in whole batches; None takes all.
        examples: Number of images of each kind that are kept to be shown.

    Raises:
        UserError: Missing or damaged data.
    """
    found = Predictions(datamodule.num_classes, examples)
    show_images(_Watch(network, found), datamodule, trainer, images=images)
    return found
