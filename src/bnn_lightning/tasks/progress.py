"""Training progress, told to annealed binarizers and distillers."""

import math
import warnings
from typing import Literal

from pytorch_lightning import Trainer

from bnn_lightning.utils.checks import check_choice

Interval = Literal["epoch", "step"]


class TrainingProgress:
    """Progress of the training, from 0 to 1, at the start of an epoch or before an optimizer step.

    With `interval="epoch"` it is e / E at the start of epoch e = 0 ... E - 1, as in IR-Net and SKD-BNN; the last one is
    (E - 1) / E. With `"step"` it is (e + t / n) / E before optimizer step t of epoch e, n steps an epoch; the last one
    is 1 - 1 / (E n). So 1 is never reached within E epochs; training past their end goes on at exactly 1, with a
    warning. The progress depends on the epoch and the step in it alone, so that a resumed run goes on exactly, and with
    another batch size at the same part of the training.

    Args:
        epochs: E, which need not be the trainer's `max_epochs`; None takes that.
        interval: "epoch" or "step".

    Raises:
        ValueError: `epochs` is not positive, or an unknown interval.

    Example:
        >>> TrainingProgress(700).at(525)
        0.75
    """

    def __init__(self, epochs: int | None = None, *, interval: Interval = "epoch") -> None:
        if epochs is not None and epochs < 1:
            raise ValueError(f"`progress_epochs` must be positive, got {epochs}.")
        check_choice("progress_interval", interval, Interval)
        self.epochs, self.interval = epochs, interval
        self._warned = False

    def length(self, max_epochs: int | None) -> int:
        """Return E.

        Raises:
            ValueError: Neither the progress nor the trainer has a length.
        """
        epochs = max_epochs if self.epochs is None else self.epochs
        if epochs is None or epochs < 1:
            raise ValueError(
                f"`progress_epochs` must be given where the trainer has no `max_epochs`, got {epochs}: binarizers and "
                "distillers that follow the training need its length."
            )
        return epochs

    def at(self, time: int, per_epoch: int = 1, *, max_epochs: int | None = None) -> float:
        """Return the progress at `time`, of which an epoch has `per_epoch`; at most 1."""
        return min(1.0, time / (self.length(max_epochs) * per_epoch))

    def now(self, trainer: Trainer, batch_idx: int = 0) -> float | None:
        """Return the progress of the epoch or optimizer step that begins; None where a finished run was resumed.

        Raises:
            ValueError: Steps are told, and the training loader has no length.
        """
        if self.interval == "step":
            if math.isinf(trainer.num_training_batches):
                raise ValueError("`progress_interval=step` needs a training loader that has a length; take epoch.")
            per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
            step = batch_idx // trainer.accumulate_grad_batches
            return self._noted(trainer, trainer.current_epoch * per_epoch + step, per_epoch)
        is_over = trainer.max_epochs not in (None, -1) and trainer.current_epoch >= trainer.max_epochs
        return None if is_over else self._noted(trainer, trainer.current_epoch, 1)

    def _noted(self, trainer: Trainer, time: int, per_epoch: int) -> float:
        progress = self.at(time, per_epoch, max_epochs=trainer.max_epochs)
        if progress >= 1.0 and not self._warned:
            self._warned = True
            warnings.warn(
                f"The annealing of {self.length(trainer.max_epochs)} epochs is over; it stays at its end. Set "
                "`progress_epochs` to the length of the training.",
                stacklevel=2,
            )
        return progress
