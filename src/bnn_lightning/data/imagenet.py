"""ImageNet: a folder of JPEG files a class, decoded by host workers and finished on the device."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bnn_lightning.data.base import DataSpec
from bnn_lightning.data.encoded_images import EncodedDataModule, Part, picture_spec
from bnn_lightning.data.folder_images import FolderImages
from bnn_lightning.data.imagenet_folders import class_difference, class_folders
from bnn_lightning.utils.image_size import ImageSize


class ImageNetDataModule(EncodedDataModule):
    """ImageNet, or any set in its folder layout: `train/<class>/*.JPEG` and `val/<class>/*.JPEG`.

    The folders lie in `<root>/imagenet`, or in `root` itself. Labels are the classes in alphabetical order. Training
    images are cut out at random (area from `min_area` to 1, sides 3:4 to 4:3), resized, flipped and augmented; test
    images are resized and cropped at the center. Workers decode to bytes; scaling to [0, 1] and `lighting` happen on
    the device. The labeled folder `val` is the test set.

    Args:
        root: Holds `imagenet`, or the folders themselves.
        image_size: Size of the images shown.
        num_classes: Must equal the number of folders; None counts them.
        **options: As `EncodedDataModule` takes them.
    """

    def __init__(
        self,
        root: str | Path = "data",
        *,
        image_size: ImageSize = 224,
        num_classes: int | None = 1000,
        **options: Any,
    ) -> None:
        self.folder = Path(root) / "imagenet" if (Path(root) / "imagenet").is_dir() else Path(root)
        spec = imagenet_spec(class_folders(self.folder / "train"), num_classes, image_size)
        super().__init__(spec, root, image_size=image_size, **options)

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
            self._check_classes(found, self.folder / part)
            if difference := class_difference(self.folder / part, self.class_names):
                raise ValueError(f"`{self.folder / part}` must hold the classes of `train`: it {difference}.")

    def source(self, part: Part) -> FolderImages:
        return FolderImages(self.folder / part, self.class_names, self.options.decoder)


def imagenet_spec(names: Sequence[str], num_classes: int | None, image_size: ImageSize) -> DataSpec:
    """Return the facts of ImageNet: 1000 classes where neither names nor number say otherwise; see `picture_spec`."""
    return picture_spec("ImageNet", names, 1000 if num_classes is None and not names else num_classes, image_size)
