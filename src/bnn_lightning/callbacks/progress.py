"""Progress of the training, for whatever changes in its course."""

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

from pytorch_lightning import Callback, LightningModule, Trainer


class FollowProgress(Callback, ABC):
    """Say at the start of every epoch, or before every optimizer step, how far the training is, from 0 to 1.

    The progress depends on the epoch and the step alone, so that a resumed run goes on exactly.

    Args:
        epochs: At how many epochs the progress is 1.
        interval: "epoch" or "step".

    Raises:
        ValueError: `epochs` is not positive, or an unknown interval.
    """

    def __init__(self, epochs: int, *, interval: Literal["epoch", "step"] = "epoch") -> None:
        super().__init__()
        if epochs < 1:
            raise ValueError(f"`epochs` must be positive, got {epochs}.")
        if interval not in ("epoch", "step"):
            raise ValueError(f"`interval` must be one of ['epoch', 'step'], got {interval!r}.")
        self.epochs, self.interval = epochs, interval

    @abstractmethod
    def set_progress(self, pl_module: LightningModule, progress: float) -> None:
        """Tell those parts of the task that change."""

    def progress(self, time: int, per_epoch: int = 1) -> float:
        """Return the progress at `time`, of which an epoch has `per_epoch`; at most 1."""
        return min(1.0, time / (self.epochs * per_epoch))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning leaves out `on_train_epoch_start` when it resumes within an epoch.
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.interval == "epoch" and not self._is_over(trainer):
            self.set_progress(pl_module, self.progress(trainer.current_epoch))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.interval == "step":
            per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
            self.set_progress(pl_module, self.progress(trainer.global_step, per_epoch))

    @staticmethod
    def _is_over(trainer: Trainer) -> bool:
        """Whether a finished run was resumed: no epoch follows."""
        return trainer.max_epochs not in (None, -1) and trainer.current_epoch >= trainer.max_epochs
