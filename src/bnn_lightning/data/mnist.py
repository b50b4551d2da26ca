"""MNIST: 60,000 and 10,000 handwritten digits of 28 x 28 gray values."""

import struct
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.datasets import MNIST

from bnn_lightning.data.base import DataSpec
from bnn_lightning.data.files import FileDataModule

_IMAGES, _LABELS = 0x803, 0x801


class MNISTDataModule(FileDataModule):
    """MNIST, from torchvision's files (`<root>/MNIST/raw`), unpacked or as .gz.

    The SKD-BNN recipe feeds values in [0, 1] as they are, so mean is 0 and std is 1. With `image_size=32` the scans
    stand in a border of two black pixels.
    """

    spec = DataSpec(
        name="MNIST",
        num_classes=10,
        in_channels=1,
        image_sizes=(28, 32),
        mean=(0.0,),
        std=(1.0,),
        class_names=tuple("0123456789"),
    )
    subfolder: ClassVar[str] = "MNIST/raw"
    checksums: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }
    source: ClassVar[str] = f"the four .gz files of {MNIST.mirrors[0]}"

    @property
    def border(self) -> int:
        return 2 if self.image_size == 32 else 0

    def fetch(self) -> None:
        MNIST(str(self.root), download=True)

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        part = "train" if train else "t10k"
        images = self._read_idx(f"{part}-images-idx3-ubyte", _IMAGES)
        labels = self._read_idx(f"{part}-labels-idx1-ubyte", _LABELS).to(torch.int64)
        if len(images) != len(labels) or images.shape[1:] != (28, 28) or int(labels.max()) > 9:
            raise self.damaged(f"{part}-images-idx3-ubyte", "images and labels do not belong together")
        return F.pad(images.unsqueeze(1), (self.border,) * 4), labels

    def _read_idx(self, name: str, magic: int) -> Tensor:
        """Read a file of the IDX format: magic number, one size a dimension (big-endian), bytes."""
        data = self.contents(name)
        rank = magic & 0xFF
        header = 4 * (1 + rank)
        if len(data) < header:
            raise self.damaged(name, "it has no header")
        found, *shape = struct.unpack(f">{1 + rank}I", data[:header])
        values = torch.frombuffer(bytearray(data[header:]), dtype=torch.uint8) if len(data) > header else torch.empty(0)
        if found != magic or values.numel() != torch.Size(shape).numel():
            raise self.damaged(name, f"its header {[found, *shape]} does not fit its {len(data)} bytes")
        return values.view(shape)
