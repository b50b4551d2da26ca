"""RandAugment on bytes, as timm has it and torchvision does not; the transforms that take its place."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from bnn_lightning.utils.checks import check_integer, check_number

Fill = tuple[float, ...]
# RandAugment, or a transform of torchvision.transforms.v2: from an image, (C, H, W), uint8, to another of that shape.
AutoAugment = Callable[[Tensor], Tensor]


def _affine(
    image: Tensor, fill: Fill, *, translate: Sequence[float] = (0, 0), shear: Sequence[float] = (0, 0)
) -> Tensor:
    degrees = [math.degrees(math.atan(factor)) for factor in shear]
    # About the corner, as Pillow's transform does. On tensors torchvision has no bicubic affine map.
    moved = tv.affine(
        image, 0.0, list(translate), 1.0, degrees, InterpolationMode.BILINEAR, fill=list(fill), center=[0.0, 0.0]
    )
    return cast(Tensor, moved)


def _solarize(image: Tensor, threshold: float) -> Tensor:
    return image if threshold > 255 else cast(Tensor, tv.solarize(image, threshold))


def _solarize_add(image: Tensor, add: int) -> Tensor:
    return torch.where(image < 128, (image.to(torch.int16) + add).clamp_(max=255).to(torch.uint8), image)


# Every operation takes the image, (C, H, W), uint8, a value in its own unit, and the color of what comes from outside.
OPERATIONS: dict[str, Callable[[Tensor, float, Fill], Tensor]] = {
    "identity": lambda x, v, fill: x,
    "auto_contrast": lambda x, v, fill: tv.autocontrast(x),
    "equalize": lambda x, v, fill: tv.equalize(x),
    "invert": lambda x, v, fill: tv.invert(x),
    "rotate": lambda x, v, fill: tv.rotate(x, v, InterpolationMode.BILINEAR, fill=list(fill)),
    "posterize": lambda x, v, fill: tv.posterize(x, int(v)),
    "solarize": lambda x, v, fill: _solarize(x, v),
    "solarize_add": lambda x, v, fill: _solarize_add(x, int(v)),
    "color": lambda x, v, fill: tv.adjust_saturation(x, v),
    "contrast": lambda x, v, fill: tv.adjust_contrast(x, v),
    "brightness": lambda x, v, fill: tv.adjust_brightness(x, v),
    "sharpness": lambda x, v, fill: tv.adjust_sharpness(x, v),
    "shear_x": lambda x, v, fill: _affine(x, fill, shear=(v, 0)),
    "shear_y": lambda x, v, fill: _affine(x, fill, shear=(0, v)),
    "translate_x": lambda x, v, fill: _affine(x, fill, translate=(v, 0)),
    "translate_y": lambda x, v, fill: _affine(x, fill, translate=(0, v)),
}


def _enhance(level: float, sign: int, width: int) -> float:
    return max(0.1, 1 + sign * 0.9 * level)


# timm's increasing set: strength grows with the level in [0, 1]; `sign` is -1 or 1, `width` that of the image.
_RAND_SPACE: tuple[tuple[str, Callable[[float, int, int], float]], ...] = (
    ("auto_contrast", lambda level, sign, width: 0),
    ("equalize", lambda level, sign, width: 0),
    ("invert", lambda level, sign, width: 0),
    ("rotate", lambda level, sign, width: sign * 30 * level),
    ("posterize", lambda level, sign, width: max(4 - int(4 * level), 1)),  # Pillow refuses 0 bits
    ("solarize", lambda level, sign, width: 256 - int(256 * level)),
    ("solarize_add", lambda level, sign, width: int(110 * level)),
    ("color", _enhance),
    ("contrast", _enhance),
    ("brightness", _enhance),
    ("sharpness", _enhance),
    ("shear_x", lambda level, sign, width: sign * 0.3 * level),
    ("shear_y", lambda level, sign, width: sign * 0.3 * level),
    ("translate_x", lambda level, sign, width: sign * 0.45 * level * width),
    ("translate_y", lambda level, sign, width: sign * 0.45 * level * width),
)


@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """A few operations of one strength, chosen for each image: timm's `rand-m7-mstd0.5-inc1`, which BNext trains with.

    Each of `num_ops` operations is drawn from 15, with replacement, and carried out with `probability`, at a level from
    a normal distribution about `magnitude` that is cut off at 0 and 10. Unlike timm's, rotation, shear and translation
    interpolate bilinearly (timm: bicubic, which torchvision does not have on tensors). Contrast, color and equalization
    may differ from Pillow's by a level or two in 255. Draws come from torch's generator, as torchvision's do.

    Args:
        num_ops: Operations an image.
        magnitude: Mean level, in [0, 10].
        std: Standard deviation of the level.
        probability: Probability of an operation to be carried out.
        fill: Color of what comes from outside the image, in 0-255; ImageNet's mean, as in timm. Gray images take the
            first value.

    Example:
        >>> image = torch.zeros(3, 8, 8, dtype=torch.uint8)
        >>> RandAugment()(image).shape
        torch.Size([3, 8, 8])

    References:
        Cubuk et al., "RandAugment: practical automated data augmentation with a reduced search space", 2020.
    """

    num_ops: int = 2
    magnitude: float = 7.0
    std: float = 0.5
    probability: float = 0.5
    fill: tuple[float, float, float] = (124.0, 116.0, 104.0)

    def __post_init__(self) -> None:
        check_integer("num_ops", self.num_ops, 1, 12)
        check_number("magnitude", self.magnitude, "in [0, 10]", lambda level: 0 <= level <= 10)
        check_number("std", self.std, "0 or more", lambda std: std >= 0)
        check_number("probability", self.probability, "in [0, 1]", lambda p: 0 <= p <= 1)

    def choices(self, width: int) -> list[tuple[str, float]]:
        """Draw the operations for an image of this width, and their values."""
        chosen = []
        for _ in range(self.num_ops):
            name, value = _RAND_SPACE[int(torch.randint(len(_RAND_SPACE), ()))]
            level = self.magnitude + self.std * float(torch.randn(()))
            sign = 2 * int(torch.randint(2, ())) - 1
            if float(torch.rand(())) < self.probability:
                chosen.append((name, value(min(max(level, 0.0), 10.0) / 10, sign, width)))
        return chosen

    def __call__(self, image: Tensor) -> Tensor:
        """Transform an image, (1 or 3, H, W), uint8."""
        for name, value in self.choices(image.shape[-1]):
            image = OPERATIONS[name](image, value, self.fill[: image.shape[0]])
        return image


def check_transformed(image: Tensor, shape: torch.Size) -> Tensor:
    """Return a transformed image, if it is of the shape of the image before, and uint8.

    Raises:
        ValueError: It is not; names the argument `auto_augment`.
    """
    if image.shape != shape or image.dtype != torch.uint8:
        raise ValueError(
            f"`auto_augment` must return images as they are, uint8 of the shape {tuple(shape)}, got {image.dtype} of "
            f"the shape {tuple(image.shape)}: scaling, normalization and sizes are those of the data module."
        )
    return image
