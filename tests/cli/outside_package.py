"""A package of somebody else's: a network, data and a distiller. Tests copy it into a folder of its own."""

import os
import sys
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from bnn_lightning.binarizers import SignSTE, WeightSign
from bnn_lightning.distill import Batch, Distiller, Outputs
from bnn_lightning.layers import BinaryConv2d
from bnn_lightning.models import Backbone

FOUND_LAST = sys.path[-1] == os.getcwd()


class Tiny(Backbone):
    def __init__(self, width: int, *, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, image_size=image_size, num_features=width)
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1)
        signs = {"input_binarizer": SignSTE(), "weight_binarizer": WeightSign()}
        self.conv = BinaryConv2d(width, width, 3, padding=1, bias=False, **signs)
        self.norm = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.stem(self.normalize(x))))  # type: ignore[no-any-return]

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        x = x.mean((2, 3))
        return x if pre_logits else self.linear(x)

    def feature_taps(self) -> list[str]:
        return ["norm"]


def tiny(width: int, num_classes: int, in_channels: int, image_size: int) -> Tiny:
    return Tiny(width, num_classes=num_classes, in_channels=in_channels, image_size=image_size)


class Bare(nn.Module):
    """No backbone of ours: it does not say what images it takes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        signs = {"input_binarizer": SignSTE(), "weight_binarizer": WeightSign()}
        self.conv, self.linear = BinaryConv2d(1, 4, 3, bias=False, **signs), nn.Linear(4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.conv(x - 0.5).mean((2, 3)))  # type: ignore[no-any-return]


class Stripes(LightningDataModule):
    num_classes, in_channels, image_size = 3, 1, 8

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        labels = torch.arange(48) % 3
        images = torch.rand(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        images[torch.arange(48), 0, labels] = 1.0
        self.images = TensorDataset(images, labels)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.images, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.images, batch_size=self.batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.images, batch_size=self.batch_size)


class Confident(Distiller):
    """Cross-entropy, and logits that stay small."""

    def __init__(self, num_classes: int, weight: float) -> None:
        super().__init__()
        self.num_classes, self.weights = num_classes, {"hard": 1.0, "small": weight}

    def forward(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        losses = {"hard": F.cross_entropy(outputs.logits, batch.target)}
        return losses | ({"small": outputs.logits.square().mean()} if self.training else {})
