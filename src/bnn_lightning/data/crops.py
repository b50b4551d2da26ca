"""Crops of decoded images, drawn by (seed, epoch, image)."""

import math
from collections.abc import Callable, Sequence
from typing import cast, get_args

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from bnn_lightning.data.preparation import Interpolation
from bnn_lightning.data.random import RESIZED_CROP, random_bits, uniform
from bnn_lightning.utils.image_size import ImageSize, sides

_RATIO = (3 / 4, 4 / 3)
_TRIES = 10
_Box = tuple[int, int, int, int]


def interpolation_mode(name: str) -> InterpolationMode:
    """Return torchvision's name of an interpolation.

    Raises:
        ValueError: It is none of ours.
    """
    if name not in get_args(Interpolation):
        raise ValueError(f"`interpolation` must be one of {', '.join(get_args(Interpolation))}, got {name!r}.")
    return InterpolationMode(name)


class RandomCrop:
    """Cut out a random part, resize it, perhaps mirror it: torchvision's `RandomResizedCrop`, drawn by image.

    Args:
        size: Height and width of the result, one number for both; or a function that returns them for an epoch. The
            shapes of the parts lie around its shape.
        min_area: Smallest share of the image.
        flip: Probability to mirror.
        seed: Seed of the run.
        interpolation: "bilinear" or "bicubic", with antialiasing.
    """

    def __init__(
        self,
        size: ImageSize | Callable[[int], ImageSize],
        min_area: float,
        flip: float,
        seed: int,
        *,
        interpolation: Interpolation = "bilinear",
    ) -> None:
        self.size, self.min_area, self.flip, self.seed = size, min_area, flip, seed
        self.interpolation = interpolation_mode(interpolation)

    def __call__(self, image: Tensor, index: int, epoch: int) -> Tensor:
        """Transform (C, H, W) to (C, *size), both uint8."""
        draws = uniform(random_bits(torch.tensor([index]), RESIZED_CROP, seed=self.seed, epoch=epoch))[:, 0].tolist()
        size = sides(self.size(epoch) if callable(self.size) else self.size)
        top, left, height, width = self.box(image.shape[-2], image.shape[-1], draws[1:], shape=size[1] / size[0])
        result = tv.resized_crop(image, top, left, height, width, list(size), self.interpolation, antialias=True)
        return cast(Tensor, tv.horizontal_flip(result) if draws[0] < self.flip else result)

    def box(self, height: int, width: int, draws: Sequence[float], *, shape: float = 1.0) -> _Box:
        """Choose top, left, height and width by four draws in [0, 1) for each of ten tries.

        Args:
            height: Of the image.
            width: Of the image.
            draws: In [0, 1).
            shape: Width of the result over its height.
        """
        low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
        for attempt in range(_TRIES):
            area, ratio, top, left = draws[4 * attempt : 4 * attempt + 4]
            target = height * width * (self.min_area + (1 - self.min_area) * area)
            aspect = shape * math.exp(low + (high - low) * ratio)
            w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
        h = min(height, max(1, round(width / (shape * _RATIO[0]))))
        w = min(width, max(1, round(height * shape * _RATIO[1])))
        return (height - h) // 2, (width - w) // 2, h, w
