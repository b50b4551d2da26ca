"""Sets that live on the training device as uint8: a batch is an index select, and augmentation runs there too."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from bnn_lightning.data.auto_augment import AutoAugment, check_transformed
from bnn_lightning.data.base import DataSpec, ImageDataModule
from bnn_lightning.data.loader import ResumableLoader
from bnn_lightning.data.random import keyed_generator
from bnn_lightning.data.sampler import Indices
from bnn_lightning.data.transforms import Augmentation, to_float


class InMemoryDataModule(ImageDataModule):
    """A set that is held whole, as uint8, on the device that trains.

    The loaders yield `Indices`; `on_after_batch_transfer` makes images of them.

    Args:
        root: Folder of the data files.
        batch_size: As `ImageDataModule` takes it.
        augment: Applied to training images; "default" is what the papers do with this set, None does nothing.
        auto_augment: `RandAugment` or a transform of torchvision.transforms.v2, applied to each training image, uint8,
            after `augment`; it draws from torch's CPU generator, seeded by (seed, epoch, image).
        **options: As `ImageDataModule` takes them.
    """

    spec: DataSpec
    default_augmentation: ClassVar[Augmentation | None] = None

    def __init__(
        self,
        root: str | Path = "data",
        *,
        batch_size: int = 128,
        augment: Augmentation | Literal["default"] | None = "default",
        auto_augment: AutoAugment | None = None,
        **options: Any,
    ) -> None:
        super().__init__(self.spec, root, batch_size=batch_size, **options)
        if isinstance(augment, str) and augment != "default":
            raise ValueError(f"`augment` must be an Augmentation, None or 'default', got {augment!r}.")
        self.augment = self.default_augmentation if isinstance(augment, str) else augment
        self.auto_augment = auto_augment
        self._images: dict[str, Tensor] = {}
        self._labels: dict[str, Tensor] = {}
        self._indices: dict[str, Tensor] = {}

    @abstractmethod
    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return the training or test set: images, (N, C, H, W), uint8, and labels, (N,), int64."""

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.local_batch_size()
        if (stage == "fit" or (stage == "validate" and self.has_val)) and "train" not in self._images:
            images, labels = self.read(train=True)
            self._indices["train"], self._indices["val"] = self._split_training(labels)
            self._images["train"] = self.augment.pad(images).contiguous() if self.augment else images.contiguous()
            self._labels["train"] = labels
        if (stage in ("test", "predict") or not self.has_val) and "test" not in self._images:
            images, labels = self.read(train=False)
            self._images["test"], self._labels["test"] = images.contiguous(), labels
            self._indices["test"] = torch.arange(len(labels))
        if stage == "fit":
            self._training_slices(len(self._indices["train"]))

    def training_labels(self) -> Tensor:
        labels = self._labels["train"]
        return labels[self._indices["train"].to(labels.device)]

    def train_dataloader(self) -> ResumableLoader:
        return self._training_loader(self._indices["train"])

    def val_dataloader(self) -> ResumableLoader:
        return self._evaluation_loader(self._indices["val"], "val") if self.has_val else self.test_dataloader()

    def test_dataloader(self) -> ResumableLoader:
        return self._evaluation_loader(self._indices["test"], "test")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        if not isinstance(batch, Indices):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        # `non_blocking`: a plain copy would make the host wait for the device.
        return batch._replace(indices=batch.indices.to(device, non_blocking=True))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if not isinstance(batch, Indices):
            return batch
        images, labels = self.materialize(batch)
        # Lightning converted the batch to the precision of the run while it was still indices.
        return (images if self.trainer is None else self.trainer.precision_plugin.convert_input(images)), labels

    def materialize(self, batch: Indices) -> tuple[Tensor, Tensor]:
        """Return a batch on the device of its indices: images in [0, 1], (N, C, H, W), float32, and labels, (N,)."""
        index, source = batch.indices, "test" if batch.split == "test" else "train"
        images, labels = self._on(index.device, source)
        labels = labels.index_select(0, index)
        if batch.split == "train" and self.augment is not None:
            chosen = self.augment(images, index, seed=self.seed, epoch=batch.epoch)
        else:
            border = self.augment.padding if source == "train" and self.augment else 0
            center = images[:, :, border : images.shape[2] - border, border : images.shape[3] - border]
            chosen = to_float(center.index_select(0, index))
        if batch.split == "train" and self.auto_augment is not None:
            chosen = self._auto_augmented(chosen, index.tolist(), batch.epoch)
        return chosen, labels

    def _auto_augmented(self, images: Tensor, index: list[int], epoch: int) -> Tensor:
        """Transform each image by itself, on bytes."""
        assert self.auto_augment is not None
        transformed = []
        for image, key in zip(images.mul(255).round_().to(torch.uint8), index, strict=True):
            with keyed_generator(self.seed, epoch, key):
                transformed.append(check_transformed(self.auto_augment(image), image.shape))
        return to_float(torch.stack(transformed))

    def batches(self, loader: Iterable[Indices], device: torch.device | str = "cpu") -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over a loader of this module without a Trainer: yield images and labels on `device`."""
        for batch in loader:
            yield self.materialize(batch._replace(indices=batch.indices.to(device)))

    def _on(self, device: torch.device, source: str) -> tuple[Tensor, Tensor]:
        """Return images and labels of a file set on `device`; they move there once."""
        if self._images[source].device != device:
            # A validation run comes in inference mode; what it moved would then be unfit for training.
            with torch.inference_mode(False):
                self._images[source] = self._images[source].to(device)
                self._labels[source] = self._labels[source].to(device)
        return self._images[source], self._labels[source]
