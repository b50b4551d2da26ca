"""Digits: 1,797 real scans that come with the package."""

from importlib.resources import files
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bnn_lightning.data.base import DataSpec
from bnn_lightning.data.image_io import prepare_picture
from bnn_lightning.data.in_memory import InMemoryDataModule
from bnn_lightning.data.transforms import Augmentation

_BORDERS: dict[int | tuple[int, int], int] = {8: 0, 28: 2, 32: 4}


class DigitsDataModule(InMemoryDataModule):
    """Handwritten digits, 8 x 8 with 17 gray values: 1,437 training and 360 test scans, nothing to download.

    They are scikit-learn's digits, which are the test set of UCI's "Optical recognition of handwritten digits" (see
    digits.LICENSE.txt). In each class, test scans are taken at even distances in the order of the file; the class
    sizes of the test set follow the whole's. At 28 and 32 the scans are enlarged three times (bilinear, on bytes) and
    stand in a black border, as MNIST's do.

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

    @property
    def border(self) -> int:
        return _BORDERS[self.image_size]

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        with (files("bnn_lightning.data") / "digits.npz").open("rb") as file, np.load(file) as archive:
            chosen = archive["is_test"] != train
            images = archive["images"][chosen]
            labels = torch.from_numpy(archive["labels"][chosen]).to(torch.int64)
        scans = np.round(images * (255 / 16)).astype(np.uint8)
        assert self.preparation is not None
        pictures = np.stack([prepare_picture(scan, self.preparation) for scan in scans])
        return torch.from_numpy(pictures).permute(0, 3, 1, 2), labels
