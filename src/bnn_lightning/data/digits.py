"""Digits: 1,797 real scans that come with the package."""

from importlib.resources import files
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bnn_lightning.data.base import DataSpec
from bnn_lightning.data.resident import ResidentDataModule
from bnn_lightning.data.transforms import Augmentation

_BORDER = {28: 2, 32: 4}


class DigitsDataModule(ResidentDataModule):
    """Handwritten digits, 8 x 8 with 17 grey values: 1,437 training and 360 test scans, nothing to download.

    They are scikit-learn's digits, which are the test set of UCI's "Optical recognition of handwritten digits" (see
    digits.LICENSE.txt). In each class, test scans are taken at even distances in the order of the file; the class
    sizes of the test set follow the whole's. At 28 and 32 the scans are enlarged three times (bilinear) and stand in
    a black border, as MNIST's do.

    Example:
        >>> data = DigitsDataModule(image_size=8, batch_size=64)
        >>> data.setup("fit")
        >>> images, labels = next(data.batches(data.train_dataloader()))
        >>> images.shape, labels.shape
        (torch.Size([64, 1, 8, 8]), torch.Size([64]))
    """

    spec = DataSpec(
        name="digits",
        num_classes=10,
        in_channels=1,
        image_sizes=(32, 28, 8),
        mean=(0.0,),
        std=(1.0,),
        class_names=tuple("0123456789"),
    )
    default_augmentation: ClassVar[Augmentation | None] = None

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        with (files("bnn_lightning.data") / "digits.npz").open("rb") as file, np.load(file) as archive:
            chosen = archive["is_test"] != train
            images = torch.from_numpy(archive["images"][chosen]).unsqueeze(1)
            labels = torch.from_numpy(archive["labels"][chosen]).to(torch.int64)
        values = images.to(torch.float32) * (255 / 16)
        if border := _BORDER.get(self.image_size):
            values = F.pad(F.interpolate(values, scale_factor=3, mode="bilinear", align_corners=False), (border,) * 4)
        return values.round().to(torch.uint8), labels
