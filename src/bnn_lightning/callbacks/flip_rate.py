"""Sign-flip rate of binary weights per epoch."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor

from bnn_lightning.layers.module_utils import binary_layers
from bnn_lightning.metrics.flips import FlipRate


class FlipRateLogger(Callback):
    """Log `binary/flip_rate` at the end of every epoch: the share of binary weights whose sign changed within it.

    Args:
        per_layer: Log `binary/flip_rate/<layer>` too.
    """

    def __init__(self, *, per_layer: bool = False) -> None:
        super().__init__()
        self.per_layer = per_layer
        self.rate = FlipRate()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rate.to(pl_module.device)
        if not self.rate.is_primed and (signs := latent_signs(pl_module)):
            self.rate.update(list(signs.values()))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signs = latent_signs(pl_module)
        if not signs:
            return
        self.rate.update(list(signs.values()))
        pl_module.log("binary/flip_rate", self.rate.compute())
        if self.per_layer:
            rates = zip(signs, self.rate.per_tensor().unbind(), strict=True)
            pl_module.log_dict({f"binary/flip_rate/{name}": rate for name, rate in rates})

    def state_dict(self) -> dict[str, Any]:
        return self.rate.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rate.load_state_dict(state_dict)


@torch.no_grad()
def latent_signs(model: LightningModule) -> dict[str, Tensor]:
    """Return the latent tensor of each binary layer, by the layer's name without "backbone."."""
    layers = binary_layers(model).items()
    return {name.removeprefix("backbone."): whole(layer.latent_weight) for name, layer in layers}


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor of which each rank has a share (FSDP); to be called on all ranks. Others as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
