"""Mixin of callbacks that watch a metric while the network is binary."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info

from bnn_lightning.layers.module_utils import is_binary


class WhileBinary(Callback):
    """Mixin in front of a callback of Lightning's: its hooks pass over steps and epochs of a relaxed network.

    A network whose weights become binary in the course of training scores better before: a choice among such epochs
    would be one among real-valued networks.

    Attributes:
        monitor: Metric that the callback chooses by.
    """

    monitor: Any  # str in one, str or None in the other

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if not is_binary(pl_module):
            rank_zero_info(
                f"The network is not binary yet: until it is, `{self.monitor}` is that of a relaxed network, and "
                f"{type(self).__name__} does not look at it."
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if is_binary(pl_module):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_binary(pl_module):
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_binary(pl_module):
            super().on_validation_end(trainer, pl_module)
