"""ImageNet: a folder of JPEG files a class, decoded by host workers and finished on the device."""

import math
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as tv

from bnn_lightning.data.base import DataSpec, ImageDataModule
from bnn_lightning.data.checks import check_integer, check_number
from bnn_lightning.data.loader import ResumableLoader
from bnn_lightning.data.random import RESIZED_CROP, random_bits, uniform
from bnn_lightning.data.sampler import EpochSampler, Indices
from bnn_lightning.data.transforms import lighting, to_float

_EXTENSIONS = (".jpeg", ".jpg", ".png")
_RATIO = (3 / 4, 4 / 3)
_TRIES = 10
_Box = tuple[int, int, int, int]


class DecodedImages(NamedTuple):
    """What a worker yields: images as bytes, and what the device needs to finish them."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    epoch: int
    split: str


class ImageNetDataModule(ImageDataModule):
    """ImageNet, or any set in its folder layout: `train/<class>/*.JPEG` and `val/<class>/*.JPEG`.

    The folders lie in `<root>/imagenet`, or in `root` itself. Labels are the classes in alphabetical order. Training
    images are cut out at random (area from `min_area` to 1, sides 3:4 to 4:3), resized and flipped; test images are
    resized and cropped at the centre. Workers decode to bytes; scaling to [0, 1] and `lighting` happen on the device.
    Arguments not named here are those of `ImageDataModule`; the labelled folder `val` is the test set.

    Args:
        image_size: Of the images shown.
        resize_size: Shorter side of a test image before the crop; None keeps 256:224.
        num_classes: Must equal the number of folders; None counts them.
        min_area: Smallest share of an image that a crop covers.
        flip: Probability of a horizontal flip.
        lighting: Standard deviation of AlexNet's colour noise; the SKD-BNN recipe names 0.1.
        num_workers: Processes that decode, for each device.
    """

    def __init__(
        self,
        root: str | Path = "data",
        *,
        batch_size: int = 256,
        val_fraction: float = 0.0,
        seed: int = 0,
        eval_batch_size: int | None = None,
        num_workers: int = 4,
        drop_last: bool = True,
        image_size: int = 224,
        resize_size: int | None = None,
        num_classes: int | None = 1000,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        min_area: float = 0.08,
        flip: float = 0.5,
        lighting: float = 0.0,
    ) -> None:
        check_integer("image_size", image_size, 1)
        check_number("min_area", min_area, "in (0, 1]", lambda share: 0 < share <= 1)
        check_number("flip", flip, "a probability in [0, 1]", lambda p: 0 <= p <= 1)
        check_number("lighting", lighting, "0 or more", lambda std: std >= 0)
        self.folder = Path(root) / "imagenet" if (Path(root) / "imagenet").is_dir() else Path(root)
        super().__init__(
            _spec(self.folder / "train", num_classes, image_size),
            root,
            batch_size=batch_size,
            val_fraction=val_fraction,
            seed=seed,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            drop_last=drop_last,
            image_size=image_size,
            num_classes=None,
            in_channels=in_channels,
            mean=mean,
            std=std,
        )
        self.resize_size = round(image_size * 256 / 224) if resize_size is None else resize_size
        rule = f"at least `image_size` = {image_size}"
        check_number("resize_size", self.resize_size, rule, lambda size: size >= image_size)
        self.min_area, self.flip, self.lighting = min_area, flip, lighting
        self._files: dict[str, FolderImages] = {}
        self._indices: dict[str, Tensor] = {}

    def _require_folders(self) -> None:
        """See that both folders are there.

        Raises:
            FileNotFoundError: One is missing or empty; says what to put where.
            ValueError: They do not hold `num_classes` classes.
        """
        for part in ("train", "val"):
            found = _class_folders(self.folder / part)
            if not found:
                raise FileNotFoundError(
                    f"ImageNet is not complete: `{self.folder / part}` has no folders of classes. Unpack the images of "
                    f"ILSVRC2012 (https://image-net.org, needs an account) as `{self.folder / part}/<wnid>/*.JPEG`, "
                    f"or let `data.root` (now `{self.root}`) name the folder that holds `train` and `val`."
                )
            if len(found) != self.num_classes:
                raise ValueError(
                    f"`num_classes` must be the number of folders in `{self.folder / part}`, {len(found)}, "
                    f"got {self.num_classes}; null takes it from the folder `train`."
                )

    def setup(self, stage: str) -> None:
        self._require_folders()
        if stage == "fit":
            self.local_batch_size()
        if (stage == "fit" or (stage == "validate" and self.has_val)) and "train" not in self._files:
            self._files["train"] = self._folder("train")
            self._indices["train"], self._indices["val"] = self._split_training(self._files["train"].labels)
        if (stage == "test" or not self.has_val) and "test" not in self._files:
            self._files["test"] = self._folder("val")
            self._indices["test"] = torch.arange(len(self._files["test"]))
        if stage == "fit":
            self._training_slices(len(self._indices["train"]))

    def _folder(self, part: str) -> "FolderImages":
        crop = RandomCrop(self.image_size, self.min_area, self.flip, self.seed)
        return FolderImages(self.folder / part, self.class_names, crop, CentreCrop(self.resize_size, self.image_size))

    def train_dataloader(self) -> ResumableLoader:
        return self._training_loader(self._indices["train"], self._workers("train", persistent=True))

    def val_dataloader(self) -> ResumableLoader:
        if not self.has_val:
            return self.test_dataloader()
        return self._evaluation_loader(self._indices["val"], "val", self._workers("train"))

    def test_dataloader(self) -> ResumableLoader:
        return self._evaluation_loader(self._indices["test"], "test", self._workers("test"))

    def _workers(self, source: str, persistent: bool = False) -> Callable[[EpochSampler], Iterable[Any]]:
        """Return a function that puts worker processes behind a sampler; each decodes whole batches."""

        def decode(sampler: EpochSampler) -> Iterable[Any]:
            return DataLoader(
                self._files[source],
                sampler=sampler,
                batch_size=None,
                num_workers=self.num_workers,
                pin_memory=torch.cuda.is_available(),
                persistent_workers=persistent and self.num_workers > 0,
            )

        return decode

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if not isinstance(batch, DecodedImages):
            return batch
        images = to_float(batch.images)
        if batch.split == "train" and self.lighting:
            images = lighting(images, batch.indices, self.lighting, seed=self.seed, epoch=batch.epoch)
        return (images if self.trainer is None else self.trainer.precision_plugin.convert_input(images)), batch.labels


class FolderImages(Dataset[DecodedImages]):
    """Image files in one folder a class; an item is a whole batch.

    Args:
        folder: Holds the folders of the classes.
        class_names: Names of these folders, in the order of the labels.
        train_transform: Makes a training image of a decoded one, its index and the epoch.
        eval_transform: Makes an evaluation image of a decoded one.
    """

    def __init__(
        self, folder: Path, class_names: Sequence[str], train_transform: "RandomCrop", eval_transform: "CentreCrop"
    ) -> None:
        unknown = sorted(set(_class_folders(folder)) - set(class_names))
        if unknown:
            raise ValueError(f"`{folder}` must hold the classes of the folder `train` only, got {unknown[:5]} besides.")
        self.train_transform = train_transform
        self.eval_transform = eval_transform
        self.paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(class_names):
            here = folder / name
            files = sorted(f for f in os.listdir(here) if f.lower().endswith(_EXTENSIONS)) if here.is_dir() else []
            if not files:
                raise FileNotFoundError(f"`{here}` holds no {', '.join(_EXTENSIONS)} file; every class needs one.")
            self.paths += [os.path.join(here, file) for file in files]
            labels += [label] * len(files)
        self.labels = torch.tensor(labels)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, batch: Indices) -> DecodedImages:
        images = []
        for index in batch.indices.tolist():
            image = decode_image(self.paths[index])
            is_train = batch.split == "train"
            images.append(self.train_transform(image, index, batch.epoch) if is_train else self.eval_transform(image))
        return DecodedImages(torch.stack(images), self.labels[batch.indices], *batch)


class RandomCrop:
    """Cut out a random part, resize it, perhaps mirror it: torchvision's `RandomResizedCrop`, drawn by image.

    Args:
        size: Height and width of the result.
        min_area: Smallest share of the image.
        flip: Probability to mirror.
        seed: Seed of the run.
    """

    def __init__(self, size: int, min_area: float, flip: float, seed: int) -> None:
        self.size, self.min_area, self.flip, self.seed = size, min_area, flip, seed

    def __call__(self, image: Tensor, index: int, epoch: int) -> Tensor:
        """Transform (3, H, W) to (3, size, size), both uint8."""
        draws = uniform(random_bits(torch.tensor([index]), RESIZED_CROP, seed=self.seed, epoch=epoch))[:, 0].tolist()
        top, left, height, width = self.box(image.shape[-2], image.shape[-1], draws[1:])
        result = tv.resized_crop(image, top, left, height, width, [self.size, self.size], antialias=True)
        return cast(Tensor, tv.horizontal_flip(result) if draws[0] < self.flip else result)

    def box(self, height: int, width: int, draws: Sequence[float]) -> _Box:
        """Choose top, left, height and width by four draws in [0, 1) for each of ten tries."""
        low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
        for attempt in range(_TRIES):
            area, ratio, top, left = draws[4 * attempt : 4 * attempt + 4]
            target = height * width * (self.min_area + (1 - self.min_area) * area)
            aspect = math.exp(low + (high - low) * ratio)
            w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
        h = min(height, round(width / _RATIO[0]))
        w = min(width, round(height * _RATIO[1]))
        return (height - h) // 2, (width - w) // 2, h, w


class CentreCrop:
    """Resize the shorter side of an image and cut out its centre.

    Args:
        resize_size: Shorter side after resizing.
        size: Height and width of the result.
    """

    def __init__(self, resize_size: int, size: int) -> None:
        self.resize_size, self.size = resize_size, size

    def __call__(self, image: Tensor) -> Tensor:
        """Transform (3, H, W) to (3, size, size), both uint8."""
        resized = tv.resize(image, [self.resize_size], antialias=True)
        return cast(Tensor, tv.center_crop(resized, [self.size, self.size]))


@cache
def _torchcodec() -> Callable[[str], Tensor] | None:
    """Return torchcodec's JPEG decoder where it is there: a third faster than Pillow, with equal pixels."""
    try:
        # Optional, and slow to import.
        from torchcodec.decoders import decode_jpeg
    # A wheel of torchcodec that misses a shared library raises OSError or RuntimeError.
    except (ImportError, OSError, RuntimeError):
        return None
    return decode_jpeg  # type: ignore[no-any-return]


def decode_image(path: str) -> Tensor:
    """Read an image file as RGB, (3, H, W), uint8.

    Raises:
        ValueError: The file is damaged.
    """
    decode_jpeg = _torchcodec()
    if decode_jpeg is not None and not path.lower().endswith(".png"):
        # ImageNet has a PNG and CMYK files that are named .JPEG; they, and damaged files, are Pillow's.
        with suppress(RuntimeError, ValueError):
            return decode_jpeg(path)
    try:
        with warnings.catch_warnings():
            # A few files of ImageNet carry broken EXIF data, which Pillow warns of for each.
            warnings.simplefilter("ignore", UserWarning)
            with Image.open(path) as image:
                return cast(Tensor, tv.pil_to_tensor(image.convert("RGB")))
    except OSError as error:
        raise ValueError(
            f"`{path}` is damaged: it cannot be decoded ({error}). Fetch it again or remove it."
        ) from error


def _spec(folder: Path, num_classes: int | None, image_size: int) -> DataSpec:
    """Return the facts of the set; the names of the classes are those of the folders, where these are there."""
    names = _class_folders(folder)
    if not names or num_classes not in (None, len(names)):
        names = tuple(str(label) for label in range(1000 if num_classes is None else num_classes))
    return DataSpec(
        name="ImageNet",
        num_classes=len(names),
        in_channels=3,
        image_sizes=(image_size,),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        class_names=names,
    )


def _class_folders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    with os.scandir(folder) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_dir()))
