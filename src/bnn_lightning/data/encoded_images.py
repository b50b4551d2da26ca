"""Sets of encoded images: host workers decode and crop whole batches, the device finishes them."""

import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bnn_lightning.data.auto_augment import AutoAugment, check_transformed
from bnn_lightning.data.base import DataSpec, ImageDataModule
from bnn_lightning.data.crops import interpolation_mode, random_crop
from bnn_lightning.data.decode import Decoder, check_decoder
from bnn_lightning.data.image_io import DamagedImageError, prepare_picture
from bnn_lightning.data.loader import ResumableLoader
from bnn_lightning.data.preparation import Interpolation, Preparation
from bnn_lightning.data.random import keyed_generator
from bnn_lightning.data.sampler import Copies, EpochSampler, Indices
from bnn_lightning.data.transforms import lighting, to_float
from bnn_lightning.utils.checks import check_choice, check_integer, check_number
from bnn_lightning.utils.image_size import ImageSize, plain_size, sides
from bnn_lightning.utils.text import some

OnDamaged = Literal["error", "skip"]
Part = Literal["train", "val", "test"]
# Means and standard deviations of ImageNet's photographs, as gray and as RGB.
STATISTICS = {1: ((0.449,), (0.226,)), 3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}
# Damaged files in a row that are passed over before this is taken for a damaged set.
_MOST_IN_A_ROW = 16


class DecodedImages(NamedTuple):
    """Batch of a worker: images as bytes, what the device needs to finish them, and the files that were damaged.

    With repeated augmentation an index counts the copies too: `index % number of images` is the image.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    epoch: int
    split: str
    damaged: tuple[str, ...] = ()


class ImageSource(Protocol):
    """Source of encoded images.

    Attributes:
        labels: (N,), int64.
    """

    labels: Tensor

    def decode(self, index: int) -> Tensor:
        """Return an image, (C, H, W), uint8; raises `DamagedImageError`."""

    def name(self, index: int) -> str:
        """Return the name of an image in messages."""


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """Options of cutting, augmenting and scoring decoded images.

    Args:
        image_size: Size of the images shown.
        in_channels: 3 for RGB, 1 for gray.
        resize_size: Shorter side of a test image before the crop; None is `image_size / crop_ratio`, rounded down.
        crop_ratio: Side of the crop of a test image over its shorter side: 0.875 is 224 of 256, BNext's 0.95 is 224 of
            235.
        interpolation: Filter of every resizing, with antialiasing: "bilinear", or "bicubic" as BNext and timm have it.
        min_area: Smallest share of an image that a crop covers.
        flip: Probability of a horizontal flip.
        lighting: Standard deviation of AlexNet's color noise; the SKD-BNN recipe names 0.1.
        auto_augment: `RandAugment` or a transform of torchvision.transforms.v2, applied after the crop; it draws from
            torch's generator, seeded by (seed, epoch, image).
        repeats: Copies of an image in a batch, each augmented by itself (repeated augmentation). An epoch keeps its
            number of steps, and so shows a share of 1 / repeats of the images.
        train_sizes: Sizes of training images in equal shares of the training, such as [128, 160, 192, 224]; None is
            `image_size` throughout.
        epochs: Length of the training, for `train_sizes`.
        decoder: "torchcodec", "pil", or "auto": torchcodec where it is installed.
        on_damaged: "error", or "skip": another image takes the place of a damaged one in training, and evaluation
            leaves it out; each is named in a warning, and `data/damaged` counts them.

    References:
        Hoffer et al., "Augment your batch: better training with larger batches", 2019 (`repeats`).
        Touvron et al., "Fixing the train-test resolution discrepancy", 2019 (sizes).
    """

    image_size: ImageSize = 224
    in_channels: int = 3
    resize_size: int | None = None
    crop_ratio: float = 0.875
    interpolation: Interpolation = "bilinear"
    min_area: float = 0.08
    flip: float = 0.5
    lighting: float = 0.0
    auto_augment: AutoAugment | None = None
    repeats: int = 1
    train_sizes: Sequence[int] | None = None
    epochs: int | None = None
    decoder: Decoder = "auto"
    on_damaged: OnDamaged = "error"

    def __post_init__(self) -> None:
        size = min(sides(self.image_size))
        check_number("crop_ratio", self.crop_ratio, "in (0, 1]", lambda ratio: 0 < ratio <= 1)
        rule = f"at least `image_size` = {size}"
        check_number("resize_size", self.shorter_side, rule, lambda side: side >= size)
        check_number("min_area", self.min_area, "in (0, 1]", lambda share: 0 < share <= 1)
        check_number("flip", self.flip, "a probability in [0, 1]", lambda p: 0 <= p <= 1)
        check_number("lighting", self.lighting, "0 or more", lambda std: std >= 0)
        check_integer("repeats", self.repeats, 1)
        interpolation_mode(self.interpolation)
        check_decoder(self.decoder)
        if self.in_channels not in (1, 3):
            raise ValueError(f"`in_channels` of pictures must be 1 or 3, got {self.in_channels}.")
        if self.in_channels == 1 and self.lighting:
            raise ValueError(f"`lighting` is noise of RGB: it must be 0 with `in_channels` = 1, got {self.lighting}.")
        check_choice("on_damaged", self.on_damaged, OnDamaged)
        if self.train_sizes is not None:
            if not self.train_sizes:
                raise ValueError(
                    "`train_sizes` must name at least one size, got none; null is `image_size` throughout."
                )
            for number in self.train_sizes:
                check_integer("train_sizes", number, 1)
            if self.epochs is None:
                raise ValueError("`epochs` must be the length of the training where `train_sizes` is given, got null.")
            check_integer("epochs", self.epochs, 1)

    @property
    def shorter_side(self) -> int:
        """Shorter side of an evaluation image before its center is cut out."""
        # 224 / 0.95 is 235, as in timm; the small term keeps 256 of 224 / 0.875 whatever the rounding.
        side = min(sides(self.image_size))
        return int(side / self.crop_ratio + 1e-6) if self.resize_size is None else self.resize_size

    @property
    def preparation(self) -> Preparation:
        """Preparation of pictures for evaluation."""
        height, width = size = sides(self.image_size)
        shorter = self.shorter_side
        longer = shorter * max(size) // min(size)
        resize = (shorter, longer) if height <= width else (longer, shorter)
        return Preparation(size=size, channels=self.in_channels, resize=resize, interpolation=self.interpolation)

    def train_size(self, epoch: int) -> ImageSize:
        """Return the size of training images in an epoch: the listed sizes have equal shares of the training."""
        if self.train_sizes is None or self.epochs is None:
            return self.image_size
        return self.train_sizes[min(epoch * len(self.train_sizes) // self.epochs, len(self.train_sizes) - 1)]


def picture_spec(
    name: str, names: Sequence[str], num_classes: int | None, image_size: ImageSize, in_channels: int = 3
) -> DataSpec:
    """Return the facts of a set of pictures, which has mean and standard deviation of ImageNet's photographs.

    Args:
        name: Name of the set.
        names: Names of the classes, as far as they are known.
        num_classes: Number of classes of the configuration; names of another number of classes are left out.
        image_size: Size of the images shown.
        in_channels: 3 for RGB, 1 for gray.
    """
    if num_classes not in (None, len(names)):
        names = [str(label) for label in range(num_classes or 0)]
    mean, std = STATISTICS[1 if in_channels == 1 else 3]  # other numbers are refused with the options
    return DataSpec(
        name=name,
        num_classes=len(names),
        in_channels=in_channels,
        image_sizes=(plain_size(image_size),),
        mean=mean,
        std=std,
        class_names=tuple(names),
    )


class DecodedBatches(Dataset[DecodedImages]):
    """Decode, crop and augment; an item is a whole batch.

    A damaged image is an error, or passed over. In training the next whole image of the training set, in the order of
    the files, then takes its place, so that batches keep their size and do not depend on workers or devices; in
    evaluation it is left out of its batch, which may then be empty. Either way the batch names it.

    Args:
        source: Encoded images.
        options: See `ImageOptions`.
        seed: Seed of the run.
        training: Indices that may replace a damaged training image, ascending.
    """

    def __init__(self, source: ImageSource, options: ImageOptions, *, seed: int, training: Tensor) -> None:
        self.source, self.options, self.seed, self.training = source, options, seed, training

    def __len__(self) -> int:
        return len(self.source.labels)

    def __getitem__(self, batch: Indices) -> DecodedImages:
        number = len(self)
        kept: list[int] = []
        images: list[Tensor] = []
        damaged: list[str] = []
        for key in batch.indices.tolist():
            found = self._whole(key % number, damaged, is_train=batch.split == "train")
            if found is None:
                continue
            image, index = found
            kept.append(key if index == key % number else index)
            if batch.split != "train":
                pixels = prepare_picture(image.permute(1, 2, 0).numpy(), self.options.preparation)
                images.append(torch.from_numpy(pixels).permute(2, 0, 1))
                continue
            with keyed_generator(self.seed, batch.epoch, key):
                images.append(self._augmented(image, batch.epoch))
        indices = torch.tensor(kept, dtype=torch.int64)
        labels = self.source.labels[indices % number]
        # An evaluation batch of damaged images alone is empty.
        empty = torch.empty(0, self.options.in_channels, *sides(self.options.image_size), dtype=torch.uint8)
        stacked = torch.stack(images) if images else empty
        return DecodedImages(stacked, labels, indices, batch.epoch, batch.split, tuple(damaged))

    def _augmented(self, image: Tensor, epoch: int) -> Tensor:
        """Cut and transform a training image, (C, H, W), uint8."""
        options = self.options
        height, width = sides(options.train_size(epoch))
        cut: Tensor = random_crop(
            height, width, min_area=options.min_area, flip=options.flip, interpolation=options.interpolation
        )(image)
        return cut if options.auto_augment is None else check_transformed(options.auto_augment(cut), cut.shape)

    def _whole(self, own: int, damaged: list[str], *, is_train: bool) -> tuple[Tensor, int] | None:
        """Decode an image, or in training the next whole one; `damaged` takes the name of one that is not whole."""
        index = own
        for attempt in range(_MOST_IN_A_ROW):
            try:
                return self.source.decode(index), index
            except DamagedImageError as error:
                if self.options.on_damaged == "error":
                    raise DamagedImageError(
                        f"{error} Fetch it again or remove it, or pass over such files with `data.on_damaged=skip`."
                    ) from error
            if attempt == 0:
                damaged.append(self.source.name(own))
            if not is_train:
                return None
            index = int(self.training[int(torch.searchsorted(self.training, index + 1)) % len(self.training)])
        raise DamagedImageError(f"{_MOST_IN_A_ROW} images in a row are damaged, beginning with `{damaged[-1]}`.")


class EncodedDataModule(ImageDataModule):
    """A set of encoded images; a subclass says where they come from.

    Args:
        spec: Facts of the set.
        root: Folder of the data files.
        batch_size: As `ImageDataModule` takes it.
        num_workers: Processes that decode, for each device.
        **options: As `ImageOptions` and `ImageDataModule` take them.
    """

    option_classes = (ImageOptions,)

    def __init__(
        self, spec: DataSpec, root: str | Path, *, batch_size: int = 256, num_workers: int = 4, **options: Any
    ) -> None:
        own = {field.name: options.pop(field.name) for field in fields(ImageOptions) if field.name in options}
        self.options = ImageOptions(**own)
        super().__init__(
            spec,
            root,
            batch_size=batch_size,
            num_workers=num_workers,
            image_size=self.options.image_size,
            in_channels=self.options.in_channels,
            **options,
        )
        if batch_size % self.options.repeats:
            raise ValueError(f"`repeats` must divide `batch_size` = {batch_size}, got {self.options.repeats}.")
        self._named: set[str] = set()
        self._passed_over: Counter[str] = Counter()
        self._sets: dict[str, DecodedBatches] = {}
        self._indices: dict[str, Tensor] = {}

    @property
    def preparation(self) -> Preparation:
        return self.options.preparation

    @abstractmethod
    def require(self) -> None:
        """See that the set is there and fits, or raise an error that says what to put where."""

    def _check_classes(self, names: Sequence[str], place: Path) -> None:
        """Refuse a part of the set with another number of classes than `num_classes`."""
        if len(names) != self.num_classes:
            raise ValueError(
                f"`num_classes` must be the number of classes in `{place}`, {len(names)} ({some(sorted(names))}), got "
                f"{self.num_classes}: data.num_classes={len(names)}."
            )

    @abstractmethod
    def source(self, part: Part) -> ImageSource:
        """Open a part of the set."""

    def setup(self, stage: str) -> None:
        self.require()
        if stage == "fit":
            self.local_batch_size()
        for split in {"fit": ("train", "val"), "validate": ("val",)}.get(stage, ("test",)):
            self._open("test" if split == "val" and not self.has_val else split)
        if stage == "fit":
            self._training_slices(len(self._indices["train"]))

    def _open(self, split: str) -> None:
        """Open a split, unless it is open: the folder `val` is the test set, and held-out images are of `train`."""
        if split in self._sets:
            return
        if split == "test":
            self._open_whole("test", "val")
            return
        source = self.source("train")
        self._indices["train"], held_out = self._split_training(source.labels)
        self._sets["train"] = self._batches(source, self._indices["train"])
        if len(held_out):
            self._sets["val"], self._indices["val"] = self._sets["train"], held_out

    def _open_whole(self, split: str, part: Part) -> None:
        """Open a split that is a whole part of the set."""
        source = self.source(part)
        self._indices[split] = torch.arange(len(source.labels))
        self._sets[split] = self._batches(source, self._indices[split])

    def training_labels(self) -> Tensor:
        return self._sets["train"].source.labels[self._indices["train"]]

    def _batches(self, source: ImageSource, training: Tensor) -> DecodedBatches:
        return DecodedBatches(source, self.options, seed=self.seed, training=training)

    def train_dataloader(self) -> ResumableLoader:
        repeats, number = self.options.repeats, len(self._sets["train"])
        copies = Copies(repeats=repeats, batch_size=self.batch_size, offset=number) if repeats > 1 else None
        return self._training_loader(self._indices["train"], self._workers("train", persistent=True), copies=copies)

    def val_dataloader(self) -> ResumableLoader:
        if not self.has_val:
            return self.test_dataloader()
        return self._evaluation_loader(self._indices["val"], "val", self._workers("val"))

    def test_dataloader(self) -> ResumableLoader:
        return self._evaluation_loader(self._indices["test"], "test", self._workers("test"))

    def _workers(self, part: str, persistent: bool = False) -> Callable[[EpochSampler], Iterable[Any]]:
        """Return a function that puts worker processes behind a sampler; each decodes whole batches."""

        def decode(sampler: EpochSampler) -> Iterable[Any]:
            return DataLoader(
                self._sets[part],
                sampler=sampler,
                batch_size=None,
                num_workers=self.num_workers,
                pin_memory=torch.cuda.is_available(),
                persistent_workers=persistent and self.num_workers > 0,
                # Its own: torch's draws a number of the training's generator for each iterator, also a resumed one.
                generator=torch.Generator(),
            )

        return decode

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if not isinstance(batch, DecodedImages):
            return batch
        if batch.damaged:
            self._note_damaged(batch)
        images = to_float(batch.images)
        if batch.split == "train" and self.options.lighting:
            images = lighting(images, batch.indices, self.options.lighting, seed=self.seed, epoch=batch.epoch)
        return (images if self.trainer is None else self.trainer.precision_plugin.convert_input(images)), batch.labels

    def _note_damaged(self, batch: DecodedImages) -> None:
        self._passed_over[batch.split] += len(batch.damaged)
        for name in batch.damaged:
            if name not in self._named:
                # Not of rank 0 only: in an epoch one rank meets it.
                warnings.warn(f"`{name}` is damaged and passed over.", stacklevel=2)
                self._named.add(name)

    def take_passed_over(self, split: str) -> int | None:
        """Return the number of damaged files of a split on this rank since the last call; None if one is an error."""
        return self._passed_over.pop(split, 0) if self.options.on_damaged == "skip" else None
