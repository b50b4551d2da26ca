"""Patience with networks that are not binary yet."""

from typing import Any, Literal

from pytorch_lightning import LightningModule, Trainer, callbacks
from pytorch_lightning.utilities import rank_zero_info

from bnn_lightning.layers.module_utils import is_binary


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's `EarlyStopping`, which passes over epochs in which the network is not binary yet.

    A network whose weights become binary in the course of training scores better before: patience would run out on
    scores that the binary network does not reach. It starts with the first binary epoch.

    Args:
        monitor: Metric to stop by, such as `val/acc`.
        mode: "max" or "min".
        patience: Epochs without a better one.
        min_delta: By how much one must be better to count.
        **options: Others of Lightning's.
    """

    def __init__(
        self,
        monitor: str,
        *,
        mode: Literal["max", "min"] = "max",
        patience: int = 20,
        min_delta: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(monitor, mode=mode, patience=patience, min_delta=min_delta, **options)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if not is_binary(pl_module):
            rank_zero_info(
                f"The network is not binary yet: until it is, `{self.monitor}` is that of a relaxed network, and "
                "the patience of early stopping does not start."
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_binary(pl_module):
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_binary(pl_module):
            super().on_validation_end(trainer, pl_module)
