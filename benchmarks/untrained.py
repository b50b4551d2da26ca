"""Packed networks with weights that were never trained, for benchmarks of their speed."""

from pathlib import Path

import torch
from torch import nn

from bnn_lightning.deploy import PackedInfo, pack, save
from bnn_lightning.layers import annealed
from bnn_lightning.models import create_backbone

# Height and width of images, by network.
SIZES = {"resnet20": 32, "birealnet18": 224, "bnext_tiny": 224}


def build(name: str) -> nn.Module:
    """Return a network in evaluation, its annealing ended: 10 classes for images of 32 pixels, 1000 for others."""
    torch.manual_seed(0)
    network = create_backbone(name, num_classes=1000 if SIZES[name] > 32 else 10, image_size=SIZES[name]).eval()
    for binarizer in annealed(network):
        binarizer.set_progress(1.0)
    return network


def write(name: str, folder: Path) -> Path:
    """Pack a network into a file of a folder, and return its path."""
    path = folder / f"{name}.bnn"
    save(pack(build(name)), path, PackedInfo(name, in_channels=3, image_size=SIZES[name]))
    return path
