"""Averaged weights of a network whose binarizers follow the training."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer, callbacks
from torch import nn

from bnn_lightning.layers.tree import annealed


class EMAWeightAveraging(callbacks.EMAWeightAveraging):
    """Lightning's `EMAWeightAveraging`, whose network is annealed as far as the one that is trained.

    A temperature is neither averaged (`use_buffers=True`: it would never be small enough for signs) nor the one of the
    last update (`update_every_n_steps`): what is scored and saved has the training's own. Arguments are Lightning's.
    """

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._anneal(pl_module)
        super().on_validation_epoch_start(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._anneal(pl_module)
        super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._anneal(pl_module)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def _anneal(self, pl_module: LightningModule) -> None:
        """Give the average the annealing of the network: Lightning, which copies or swaps, then changes none."""
        if self._average_model is not None:
            copy_annealing_(self._average_model.module, pl_module)


def copy_annealing_(network: nn.Module, source: nn.Module) -> None:
    """Set the annealed binarizers of `network` to where those of `source`, a network of the same make, are."""
    for binarizer, other in zip(annealed(network), annealed(source), strict=True):
        buffers = zip(binarizer.buffers(recurse=False), other.buffers(recurse=False), strict=True)
        for buffer, wanted in buffers:
            buffer.copy_(wanted)
