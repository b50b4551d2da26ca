"""Synthetic images of any shape, for tests and debugging."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bnn_lightning.data.base import DataSpec
from bnn_lightning.data.in_memory import InMemoryDataModule
from bnn_lightning.utils.checks import check_integer
from bnn_lightning.utils.image_size import ImageSize, plain_size, sides


class SyntheticDataModule(InMemoryDataModule):
    """Images made from numbers: the same for the same shape and counts, whatever the seed of the run.

    Args:
        root: Not used.
        num_train: Training images.
        num_test: Test images.
        learnable: Each class is a smooth pattern under noise, which a small network learns. False is noise with
            random labels.
        batch_size: As `ImageDataModule` takes it.
        image_size: Height and width of the images, or one number for both.
        num_classes: Number of classes.
        in_channels: Channels of the images.
        **options: As `InMemoryDataModule` takes them.

    Example:
        >>> data = SyntheticDataModule(image_size=16, num_classes=4, num_train=8, num_test=4, batch_size=4)
        >>> data.setup("fit")
        >>> [tuple(images.shape) for images, _ in data.batches(data.train_dataloader())]
        [(4, 3, 16, 16), (4, 3, 16, 16)]
    """

    def __init__(
        self,
        root: str | Path = "data",
        *,
        num_train: int = 512,
        num_test: int = 128,
        learnable: bool = True,
        batch_size: int = 32,
        image_size: ImageSize = 32,
        num_classes: int = 10,
        in_channels: int = 3,
        **options: Any,
    ) -> None:
        counts = {"num_train": num_train, "num_test": num_test}
        for name, value in {**counts, "num_classes": num_classes, "in_channels": in_channels}.items():
            check_integer(name, value, 1)
        self.num_train = num_train
        self.num_test = num_test
        self.learnable = learnable
        self.spec = DataSpec(
            name="synthetic",
            num_classes=num_classes,
            in_channels=in_channels,
            image_sizes=(plain_size(image_size),),
            mean=(0.5,) * in_channels,
            std=(0.25,) * in_channels,
            class_names=tuple(str(label) for label in range(num_classes)),
        )
        super().__init__(root, batch_size=batch_size, **options)

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        count, size = (self.num_train if train else self.num_test), sides(self.image_size)
        patterns = torch.rand(self.num_classes, self.in_channels, 4, 4, generator=torch.Generator().manual_seed(0))
        generator = torch.Generator().manual_seed(1 + train)
        labels = torch.arange(count) % self.num_classes
        if not self.learnable:
            labels = torch.randint(self.num_classes, (count,), generator=generator)
            return torch.randint(256, (count, self.in_channels, *size), generator=generator, dtype=torch.uint8), labels
        classes = F.interpolate(patterns, size=size, mode="bilinear", align_corners=False)
        noise = torch.rand(count, self.in_channels, *size, generator=generator)
        return (255 * (0.5 * classes[labels] + 0.5 * noise)).to(torch.uint8), labels
