"""Clipping of latent weights, biases and channel blends to bounds."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from bnn_lightning.layers.attention import ChannelBlend
from bnn_lightning.layers.module_utils import binary_layers, latent_weights


class _ClipAfterStep(Callback, ABC):
    """Clip some parameters to [low, high] after every optimizer step; they are looked up once a training."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high
        self._tensors: list[Tensor] | None = None

    @abstractmethod
    def find(self, model: nn.Module) -> Iterable[Tensor]:
        """Return the parameters to clip."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tensors = list(self.find(pl_module))

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self._tensors is None:
            self.on_train_start(trainer, pl_module)
        # Looked at in every step: callbacks such as Lightning's `BackboneFinetuning` thaw parameters within a training.
        trained = [tensor for tensor in self._tensors or () if tensor.requires_grad]
        if trained:
            torch._foreach_clamp_min_(trained, self.low)
            torch._foreach_clamp_max_(trained, self.high)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tensors = None


class _ClipWithinLimit(_ClipAfterStep):
    def __init__(self, limit: float | None = 1.0) -> None:
        if limit is not None and not limit > 0:
            raise ValueError(f"`limit` must be positive, got {limit}.")
        super().__init__(-math.inf if limit is None else -limit, math.inf if limit is None else limit)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.high == math.inf:
            self._tensors = []


class LatentClip(_ClipWithinLimit):
    """Clip the latent weights of all binary layers to [-limit, limit] after every optimizer step.

    Stands before an averaging callback in the list of callbacks, which is to see the clipped weights.

    Args:
        limit: Positive bound; None clips nothing.
    """

    def find(self, model: nn.Module) -> Iterable[Tensor]:
        return latent_weights(model).values()


class BiasClip(_ClipWithinLimit):
    """Clip the biases of all binary layers to [-limit, limit] after every optimizer step.

    Args:
        limit: Positive bound; None clips nothing.

    References:
        The 3-MLP of SKD-BNN and its ancestor BinaryNet (Courbariaux et al., 2016) clip them to [-1, 1].
    """

    def find(self, model: nn.Module) -> Iterable[Tensor]:
        return [layer.bias for layer in binary_layers(model).values() if layer.bias is not None]


class ChannelBlendClip(_ClipAfterStep):
    """Clip the weights of all blends (`layers.ChannelBlend`) to [0, 1] after every optimizer step, as BNext does.

    Stands before an averaging callback in the list of callbacks, as `LatentClip`.
    """

    def __init__(self) -> None:
        super().__init__(0.0, 1.0)

    def find(self, model: nn.Module) -> Iterable[Tensor]:
        return [module.scale for module in model.modules() if isinstance(module, ChannelBlend)]
