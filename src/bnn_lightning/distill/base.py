"""Base class of distillers, and the one that distills nothing."""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.distill.hooks import Taps
from bnn_lightning.losses.soft import at_least_float32


class Batch(NamedTuple):
    """Batch of the data module.

    Attributes:
        images: Shape (N, C, H, W).
        labels: Shape (N,), integers; of a mixed image, the class with the largest share.
        shares: Shape (N, num_classes), the shares of the classes in mixed images; None where every image is of one.
    """

    images: Tensor
    labels: Tensor
    shares: Tensor | None = None

    @property
    def target(self) -> Tensor:
        """Target of cross-entropy: the labels, or the shares of mixed images."""
        return self.labels if self.shares is None else self.shares


class Outputs(NamedTuple):
    """Outputs of the student for a batch.

    Attributes:
        logits: Shape (N, num_classes).
        features: The classifier's input, where the distiller asked for it: `taps.features`.
        taps: Recordings of `Distiller.watch`.
    """

    logits: Tensor
    features: Tensor | None = None
    taps: Taps | None = None


class Distiller(nn.Module):
    """Named losses and their weights; the loss of a step is `distiller.total(losses)`.

    Example:
        A step of training; nothing is recorded and only "hard" is computed once `distiller.eval()` was called.

        >>> import torch
        >>> backbone, distiller = nn.Linear(4, 3), HardLabels()
        >>> batch = Batch(torch.rand(2, 4), torch.tensor([0, 2]))
        >>> with distiller.watch(backbone) as taps:
        ...     logits = backbone(batch.images)
        >>> losses = distiller(batch, Outputs(logits, taps.features, taps))
        >>> sorted(losses), distiller.total(losses).shape
        (['hard'], torch.Size([]))
    """

    weights: dict[str, float]
    #: Names of what `measured` holds after a training step; the task logs their means as `train/<name>`.
    measures: tuple[str, ...] = ()

    label_smoothing: float = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.measured: dict[str, Tensor] = {}
        #: Of the "hard" loss, (num_classes,); set by the task, which knows the data. Follows from them: not saved.
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", None, persistent=False)

    @property
    def records(self) -> bool:
        """Whether `watch` records, in training, what is inside the backbone, which then runs uncompiled."""
        return False

    @property
    def follows_progress(self) -> bool:
        """Whether `set_progress` changes what is learned."""
        return type(self).set_progress is not Distiller.set_progress

    def prepare(self, backbone: nn.Module) -> None:
        """Fetch what training needs, such as teachers, and see that it fits the student, while errors are cheap.

        To be called before training; evaluation does without.

        Raises:
            ValueError: It does not fit.
            OSError: A file that is not there.
            ModuleNotFoundError: A library that is not installed.
        """

    def set_progress(self, progress: float) -> None:
        """Take in how far the training is, from 0 to 1, for a distiller that changes with it."""

    def watch(self, backbone: nn.Module) -> AbstractContextManager[Taps]:
        """Wrap one call of `backbone` and record what the losses need; nothing in evaluation."""
        return nullcontext(Taps())

    def forward(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        """Return the unweighted losses by name, scalars."""
        raise TypeError(f"{type(self).__name__} does not define `forward`; a distiller has to.")

    def hard_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy with the labels, a scalar: the mean of (class weight x cross-entropy) over images.

        It is divided by the number of images, not by the sum of their weights, so that it does not depend on how a
        batch is shared between devices. In float32 or wider: balanced weights may be beyond half precision.
        """
        logits = at_least_float32(logits)
        if self.class_weights is None:
            return F.cross_entropy(logits, batch.target, label_smoothing=self.label_smoothing)
        weights = self.class_weights.to(logits.dtype)
        options = {"weight": weights, "label_smoothing": self.label_smoothing}
        return F.cross_entropy(logits, batch.target, reduction="sum", **options) / len(logits)  # type: ignore[arg-type]

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum of `losses`, a scalar."""
        first, *rest = (self.weights[name] * loss for name, loss in losses.items())
        return sum(rest, start=first)

    def sync(self) -> None:
        """Give all ranks the same state. To be called on all of them, before a checkpoint is taken in mid-epoch."""

    def end_epoch(self) -> None:
        """Take in what the epoch has gathered. To be called on all ranks after the last step of an epoch."""


class HardLabels(Distiller):
    """Cross-entropy with the labels, and nothing else.

    Args:
        label_smoothing: Share of the target that is spread over all classes.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = check_label_smoothing(label_smoothing)
        self.weights = {"hard": 1.0}

    def forward(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        return {"hard": self.hard_loss(outputs.logits, batch)}


def check_label_smoothing(label_smoothing: float) -> float:
    """Return `label_smoothing` if it lies in [0, 1].

    Raises:
        ValueError: It does not.
    """
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"`label_smoothing` must lie between 0 and 1, got {label_smoothing}.")
    return label_smoothing
