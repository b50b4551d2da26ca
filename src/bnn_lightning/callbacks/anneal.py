"""Annealed binarizers follow the training."""

import math
import warnings
from typing import Any, Literal

from pytorch_lightning import Callback, LightningModule, Trainer

from bnn_lightning.layers.tree import annealed


class AnnealProgress(Callback):
    """Tell every annealed binarizer how far the training is.

    With `interval="epoch"` the progress is e / E, set at the start of epoch e = 0 ... E - 1, as in IR-Net and SKD-BNN;
    the last one is (E - 1) / E. With `"step"` it is t / (E n) before optimizer step t, n steps an epoch; the last one
    is 1 - 1 / (E n). So 1 is never reached within the schedule; training past its end goes on at exactly 1, with a
    warning. What is computed depends on the epoch and the step alone, so that a resumed run goes on exactly.

    Args:
        epochs: E, the length of the annealing; it need not be the trainer's.
        interval: "epoch" or "step".

    Raises:
        ValueError: `epochs` is not positive, or an unknown interval.

    Example:
        >>> AnnealProgress(epochs=700).progress(525)
        0.75
    """

    def __init__(self, epochs: int, *, interval: Literal["epoch", "step"] = "epoch") -> None:
        super().__init__()
        if epochs < 1:
            raise ValueError(f"`epochs` must be positive, got {epochs}.")
        if interval not in ("epoch", "step"):
            raise ValueError(f"`interval` must be one of ['epoch', 'step'], got {interval!r}.")
        self.epochs, self.interval = epochs, interval
        self._warned = False

    def progress(self, time: int, per_epoch: int = 1) -> float:
        """Return the progress at `time`, of which an epoch has `per_epoch`; at most 1."""
        if time >= self.epochs * per_epoch and not self._warned:
            self._warned = True
            warnings.warn(
                f"The annealing of {self.epochs} epochs is over; it stays at its end. Set its `epochs` to the length "
                "of the training.",
                stacklevel=2,
            )
        return min(1.0, time / (self.epochs * per_epoch))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning leaves out `on_train_epoch_start` when it resumes within an epoch.
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.interval == "epoch" and not self._is_over(trainer):
            self._set(pl_module, self.progress(trainer.current_epoch))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.interval == "step":
            per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
            self._set(pl_module, self.progress(trainer.global_step, per_epoch))

    @staticmethod
    def _is_over(trainer: Trainer) -> bool:
        """Whether a finished run was resumed: no epoch follows."""
        return trainer.max_epochs not in (None, -1) and trainer.current_epoch >= trainer.max_epochs

    @staticmethod
    def _set(pl_module: LightningModule, progress: float) -> None:
        for binarizer in annealed(pl_module):
            binarizer.set_progress(progress)
