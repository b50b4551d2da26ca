"""Latent weights, biases and mix scales within bounds."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from bnn_lightning.layers.tree import binary_layers, clip_latent_, clip_mix_


class LatentClip(Callback):
    """Clip the latent weights of all binary layers to [-limit, limit] after every optimizer step.

    Stands before an averaging callback in the list of callbacks, which is to see the clipped weights.

    Args:
        limit: Positive bound.
    """

    def __init__(self, limit: float = 1.0) -> None:
        super().__init__()
        self.limit = check_limit(limit)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        clip_latent_(pl_module, self.limit)


class BiasClip(Callback):
    """Clip the biases of all binary layers to [-limit, limit] after every optimizer step.

    Args:
        limit: Positive bound.

    References:
        The 3-MLP of SKD-BNN and its ancestor BinaryNet (Courbariaux et al., 2016) clip them to [-1, 1].
    """

    def __init__(self, limit: float = 1.0) -> None:
        super().__init__()
        self.limit = check_limit(limit)

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        biases = [layer.bias for layer in binary_layers(pl_module).values() if layer.bias is not None]
        biases = [bias for bias in biases if bias.requires_grad]
        if biases:
            torch._foreach_clamp_min_(biases, -self.limit)
            torch._foreach_clamp_max_(biases, self.limit)


class MixClip(Callback):
    """Clip the weights of all blends (`layers.Mix`) to [0, 1] after every optimizer step, as BNext does.

    Stands before an averaging callback in the list of callbacks, as `LatentClip`.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        clip_mix_(pl_module)


def check_limit(limit: float) -> float:
    """Return `limit` if it is positive.

    Raises:
        ValueError: It is not.
    """
    if not limit > 0:
        raise ValueError(f"`limit` must be positive, got {limit}.")
    return limit
