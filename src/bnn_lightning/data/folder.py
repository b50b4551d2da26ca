"""Data module of your own images, one folder a class."""

from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info

from bnn_lightning.data.encoded_images import EncodedDataModule, Part, picture_spec
from bnn_lightning.data.folder_images import FolderImages
from bnn_lightning.data.imagenet_folders import class_difference, class_folders, count_classes
from bnn_lightning.utils.image_size import ImageSize

VALIDATION = ("val", "validation")


class FolderDataModule(EncodedDataModule):
    """Pictures of one's own: `train/<class>/*`, and `val/` or `validation/`, `test/`, or held-out training images.

    Labels are the folders of `train` in alphabetical order; hidden folders are none. Held out are the pictures of `val`
    (or `validation`), or a share `val_fraction` of those of `train`. The test set is `test`, or where there is none the
    held-out pictures. In both of these a class without pictures has an empty folder. Training pictures are cut out at
    random, resized, flipped and augmented; others are scaled to cover `image_size` and cut to it. The default mean and
    std are those of photographs (ImageNet's).

    Args:
        root: Holds `train`.
        image_size: Height and width of the images, or one number for both.
        in_channels: 3 for RGB, 1 for gray.
        batch_size: Images an optimizer step.
        val_fraction: Share of the training pictures held out, where there is no folder of validation pictures.
        crop_ratio: Side of the crop of an evaluation picture over that of the scaled picture; 1 keeps all of its
            shorter side.
        min_area: Smallest share of a picture that a random crop covers.
        num_classes: Must equal the number of folders in `train`; None counts them.
        **options: As `EncodedDataModule` takes them.

    Raises:
        ValueError: Both `val` and `validation` are there, or `val_fraction` is given beside one of them.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as root:
        ...     for name in ("cat", "dog"):
        ...         folder = Path(root, "train", name)
        ...         folder.mkdir(parents=True)
        ...         for i in range(4):
        ...             Image.new("RGB", (40, 30)).save(folder / f"{i}.png")
        ...     data = FolderDataModule(root, image_size=[24, 32], batch_size=2, val_fraction=0.25, num_workers=0)
        ...     data.setup("fit")
        ...     images, labels = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
        >>> data.class_names, tuple(images.shape), sorted(labels.tolist())
        (('cat', 'dog'), (2, 3, 24, 32), [0, 1])
    """

    def __init__(
        self,
        root: str | Path,
        *,
        image_size: ImageSize = 224,
        in_channels: int = 3,
        batch_size: int = 64,
        val_fraction: float = 0.0,
        crop_ratio: float = 1.0,
        min_area: float = 0.35,
        num_classes: int | None = None,
        **options: Any,
    ) -> None:
        self.folders = find_parts(Path(root))
        if "val" in self.folders and val_fraction > 0:
            raise ValueError(
                f"`val_fraction` must be 0 where `{self.folders['val']}` holds the validation pictures, "
                f"got {val_fraction}."
            )
        names = count_classes(root) if num_classes is None else class_folders(Path(root, "train"))
        super().__init__(
            picture_spec(f"the folder {Path(root).name}", names, num_classes, image_size, in_channels),
            root,
            image_size=image_size,
            in_channels=in_channels,
            batch_size=batch_size,
            val_fraction=val_fraction,
            crop_ratio=crop_ratio,
            min_area=min_area,
            **options,
        )

    @property
    def has_val(self) -> bool:
        return "val" in self.folders or self.val_fraction > 0

    @property
    def test_note(self) -> str | None:
        """Caution for test scores where there is no folder `test`: held-out pictures are no independent test."""
        if "test" in self.folders:
            return None
        return f"`{self.root}` has no folder `test`: these are the held-out pictures, no independent test"

    def require(self) -> None:
        """See that the folders are there and hold the same classes.

        Raises:
            FileNotFoundError: `train` is missing or empty, or there is nothing to evaluate on.
            ValueError: They do not hold `num_classes` classes, or one holds others than `train`.
        """
        names = count_classes(self.root)
        self._check_classes(names, self.root / "train")
        if not self.has_val and "test" not in self.folders:
            raise FileNotFoundError(
                f"`{self.root}` holds no pictures to evaluate on: add a folder `val` (or `validation`) or `test`, with "
                "the classes of `train`, or hold out a share of the training pictures: data.val_fraction=0.2."
            )
        for part in self.folders.values():
            if difference := class_difference(part, names):
                raise ValueError(
                    f"`{part}` must hold the classes of `{self.root / 'train'}`: it {difference}. A class without "
                    "pictures there has an empty folder."
                )

    def source(self, part: Part) -> FolderImages:
        options: dict[str, Any] = {"channels": self.in_channels, "complete": part == "train"}
        return FolderImages(self.folders[part], self.class_names, self.options.decoder, **options)

    def _open(self, split: str) -> None:
        if split in self._sets:
            return
        if split in ("val", "test") and split in self.folders:
            self._open_whole(split, "val" if split == "val" else "test")
        elif split == "test":
            rank_zero_info(f"Test scores: {self.test_note}.")
            self._open("val")
            self._sets["test"], self._indices["test"] = self._sets["val"], self._indices["val"]
        else:
            super()._open(split)


def find_parts(root: Path) -> dict[str, Path]:
    """Return the folders of the parts that are there, by "train", "val" and "test".

    Raises:
        ValueError: Both `val` and `validation` are there.
    """
    validation = [root / name for name in VALIDATION if (root / name).is_dir()]
    if len(validation) > 1:
        raise ValueError(f"`{root}` must hold `val` or `validation`, and holds both: remove or rename one of them.")
    found = {"val": validation[0]} if validation else {}
    return {**{part: root / part for part in ("train", "test") if (root / part).is_dir()}, **found}
