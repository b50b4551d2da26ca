"""Exponential moving average of weights, with the annealing of the training."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer, callbacks
from torch import nn

from bnn_lightning.distill.base import Distiller
from bnn_lightning.layers.module_utils import annealed
from bnn_lightning.utils.signature import merged_signature


class EMAWeightAveraging(callbacks.EMAWeightAveraging):
    """Lightning's `EMAWeightAveraging`, whose network is annealed as far as the one that is trained.

    What a distiller remembers is the training's own as well, also in `final.ckpt`.
    A temperature is neither averaged (`use_buffers=True`: it would never be small enough for signs) nor the one of the
    last update (`update_every_n_steps`): what is scored and saved has the training's own.

    Args:
        decay: Share of the average that an update keeps.
        use_buffers: Average buffers, too, such as statistics of batch norm.
        **options: As Lightning's takes them: `update_every_n_steps` and others.
    """

    def __init__(self, decay: float = 0.999, *, use_buffers: bool = False, **options: Any) -> None:
        super().__init__(decay=decay, use_buffers=use_buffers, **options)

    __signature__ = merged_signature(__init__, callbacks.EMAWeightAveraging)

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
        """Give the average what is the training's own: Lightning, which copies or swaps, then changes none of it."""
        if self._average_model is not None:
            copy_annealing_(self._average_model.module, pl_module)
            copy_memory_(self._average_model.module, pl_module)


def copy_annealing_(network: nn.Module, source: nn.Module) -> None:
    """Set the annealed binarizers of `network` to where those of `source`, a network of the same make, are."""
    for binarizer, other in zip(annealed(network), annealed(source), strict=True):
        buffers = zip(binarizer.buffers(recurse=False), other.buffers(recurse=False), strict=True)
        for buffer, wanted in buffers:
            buffer.copy_(wanted)


def copy_memory_(network: nn.Module, source: nn.Module) -> None:
    """Set the buffers of distillers in `network` to those in `source`."""
    for module, other in zip(network.modules(), source.modules(), strict=True):
        if isinstance(module, Distiller):
            for buffer, wanted in zip(module.buffers(), other.buffers(), strict=True):
                buffer.copy_(wanted)
