"""Image files in one folder a class."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bnn_lightning.data.decode import Decoder, decode_image
from bnn_lightning.data.image_io import SUFFIXES
from bnn_lightning.data.imagenet_folders import class_difference, image_files


class FolderImages:
    """Image files in one folder a class.

    Args:
        folder: Holds the folders of the classes.
        class_names: Names of these folders, in the order of the labels.
        decoder: See `decode_image`.
        channels: Channels of the images, 1 or 3.
        complete: Whether every class must have an image; else its folder may be empty.

    Raises:
        ValueError: The folders are not those of the classes.
        FileNotFoundError: A class has no image; or none has.
    """

    def __init__(
        self,
        folder: Path,
        class_names: Sequence[str],
        decoder: Decoder = "auto",
        *,
        channels: int = 3,
        complete: bool = True,
    ) -> None:
        self.decoder, self.channels = decoder, channels
        if difference := class_difference(folder, class_names):
            raise ValueError(f"`{folder}` must hold the classes of the folder `train` only: it {difference}.")
        self.paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(class_names):
            here = folder / name
            files = image_files(here)
            if not files and complete:
                raise FileNotFoundError(f"`{here}` holds no {', '.join(SUFFIXES)} file; every class needs one.")
            self.paths += [os.path.join(here, file) for file in files]
            labels += [label] * len(files)
        if not labels:
            raise FileNotFoundError(f"`{folder}` holds no {', '.join(SUFFIXES)} file.")
        self.labels = torch.tensor(labels)

    def decode(self, index: int) -> Tensor:
        return decode_image(self.paths[index], self.decoder, channels=self.channels)

    def name(self, index: int) -> str:
        return self.paths[index]
