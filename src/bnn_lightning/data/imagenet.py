"""ImageNet: a folder of JPEG files a class, decoded by host workers and finished on the device."""

from collections.abc import Sequence
from pathlib import Path

from bnn_lightning.data.auto_augment import AutoAugment
from bnn_lightning.data.base import DataSpec
from bnn_lightning.data.decode import Decoder
from bnn_lightning.data.encoded_images import EncodedDataModule, ImageOptions, OnDamaged, Part
from bnn_lightning.data.folder_images import FolderImages
from bnn_lightning.data.imagenet_folders import class_difference, class_folders, listed_names
from bnn_lightning.data.preparation import Interpolation
from bnn_lightning.utils.image_size import ImageSize, plain_size


class ImageNetDataModule(EncodedDataModule):
    """ImageNet, or any set in its folder layout: `train/<class>/*.JPEG` and `val/<class>/*.JPEG`.

    The folders lie in `<root>/imagenet`, or in `root` itself. Labels are the classes in alphabetical order. Training
    images are cut out at random (area from `min_area` to 1, sides 3:4 to 4:3), resized, flipped and augmented; test
    images are resized and cropped at the center. Workers decode to bytes; scaling to [0, 1] and `lighting` happen on
    the device. Arguments not named here are those of `ImageDataModule`; the labeled folder `val` is the test set.

    Args:
        image_size: Size of the images shown.
        resize_size: Shorter side of a test image before the crop; None is `image_size / crop_ratio`, rounded down.
        crop_ratio: Side of the crop of a test image over its shorter side: 0.875 is 224 of 256, BNext's 0.95 is 224 of
            235.
        interpolation: Filter of every resizing, with antialiasing: "bilinear", or "bicubic" as BNext and timm have it.
        num_classes: Must equal the number of folders; None counts them.
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
        num_workers: Processes that decode, for each device.

    References:
        Hoffer et al., "Augment your batch: better training with larger batches", 2019 (`repeats`).
        Touvron et al., "Fixing the train-test resolution discrepancy", 2019 (sizes).
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
        image_size: ImageSize = 224,
        resize_size: int | None = None,
        crop_ratio: float = 0.875,
        interpolation: Interpolation = "bilinear",
        num_classes: int | None = 1000,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        min_area: float = 0.08,
        flip: float = 0.5,
        lighting: float = 0.0,
        auto_augment: AutoAugment | None = None,
        repeats: int = 1,
        train_sizes: Sequence[int] | None = None,
        epochs: int | None = None,
        decoder: Decoder = "auto",
        on_damaged: OnDamaged = "error",
    ) -> None:
        options = ImageOptions(
            image_size=image_size,
            resize_size=resize_size,
            crop_ratio=crop_ratio,
            interpolation=interpolation,
            min_area=min_area,
            flip=flip,
            lighting=lighting,
            auto_augment=auto_augment,
            repeats=repeats,
            train_sizes=train_sizes,
            epochs=epochs,
            decoder=decoder,
            on_damaged=on_damaged,
        )
        self.folder = Path(root) / "imagenet" if (Path(root) / "imagenet").is_dir() else Path(root)
        super().__init__(
            imagenet_spec(class_folders(self.folder / "train"), num_classes, image_size),
            root,
            options=options,
            batch_size=batch_size,
            val_fraction=val_fraction,
            seed=seed,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            drop_last=drop_last,
            in_channels=in_channels,
            mean=mean,
            std=std,
        )

    def require(self) -> None:
        """See that both folders are there.

        Raises:
            FileNotFoundError: One is missing or empty; says what to put where.
            ValueError: They do not hold `num_classes` classes.
        """
        for part in ("train", "val"):
            found = class_folders(self.folder / part)
            if not found:
                raise FileNotFoundError(
                    f"ImageNet is not complete: `{self.folder / part}` has no folders of classes. Unpack the images of "
                    f"ILSVRC2012 (https://image-net.org, needs an account) as `{self.folder / part}/<wnid>/*.JPEG`, "
                    f"or let `data.root` (now `{self.root}`) name the folder that holds `train` and `val`."
                )
            if len(found) != self.num_classes:
                raise ValueError(
                    f"`num_classes` must be the number of folders in `{self.folder / part}`, {len(found)} "
                    f"({listed_names(found)}), got {self.num_classes}: data.num_classes={len(found)}."
                )
            if difference := class_difference(self.folder / part, self.class_names):
                raise ValueError(f"`{self.folder / part}` must hold the classes of `train`: it {difference}.")

    def source(self, part: Part) -> FolderImages:
        return FolderImages(self.folder / part, self.class_names, self.options.decoder)


def imagenet_spec(names: Sequence[str], num_classes: int | None, image_size: ImageSize) -> DataSpec:
    """Return the facts of the set.

    Args:
        names: Names of the classes, where they are known.
        num_classes: Number of classes of the configuration; names of another number of classes are left out.
        image_size: Size of the images shown.
    """
    if not names or num_classes not in (None, len(names)):
        names = [str(label) for label in range(1000 if num_classes is None else num_classes)]
    return DataSpec(
        name="ImageNet",
        num_classes=len(names),
        in_channels=3,
        image_sizes=(plain_size(image_size),),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        class_names=tuple(names),
    )
