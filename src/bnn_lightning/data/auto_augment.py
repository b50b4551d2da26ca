"""RandAugment and TrivialAugment on bytes, drawn by (seed, epoch, image)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from bnn_lightning.data.checks import check_integer, check_number
from bnn_lightning.data.random import AUTO_AUGMENT, integers, random_bits, uniform

Fill = tuple[float, ...]
_DRAWS = 5  # of one operation of RandAugment
_BINS = 31


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


# Every operation takes the image, (3, H, W), uint8, a value in its own unit, and the color of what comes from outside.
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
# The wide set of TrivialAugment, as torchvision has it.
_WIDE_SPACE: tuple[tuple[str, Callable[[float, int], float]], ...] = (
    ("identity", lambda level, sign: 0),
    ("shear_x", lambda level, sign: sign * 0.99 * level),
    ("shear_y", lambda level, sign: sign * 0.99 * level),
    ("translate_x", lambda level, sign: int(sign * 32 * level)),
    ("translate_y", lambda level, sign: int(sign * 32 * level)),
    ("rotate", lambda level, sign: sign * 135 * level),
    ("brightness", lambda level, sign: 1 + sign * 0.99 * level),
    ("color", lambda level, sign: 1 + sign * 0.99 * level),
    ("contrast", lambda level, sign: 1 + sign * 0.99 * level),
    ("sharpness", lambda level, sign: 1 + sign * 0.99 * level),
    ("posterize", lambda level, sign: 8 - round(6 * level)),
    ("solarize", lambda level, sign: 255 * (1 - level)),
    ("auto_contrast", lambda level, sign: 0),
    ("equalize", lambda level, sign: 0),
)


@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """A few operations of one strength, chosen for each image: timm's `rand-m7-mstd0.5-inc1`, which BNext trains with.

    Each of `num_ops` operations is drawn from 15, with replacement, and carried out with `probability`, at a level from
    a normal distribution about `magnitude` that is cut off at 0 and 10. Two things differ from timm: the draws are
    functions of (seed, epoch, image), and rotation, shear and translation interpolate bilinearly (timm: bicubic, which
    torchvision does not have on tensors). Contrast, color and equalization may differ from Pillow's by a level or two
    in 255.

    Args:
        num_ops: Operations an image.
        magnitude: Mean level, in [0, 10].
        std: Standard deviation of the level.
        probability: Of an operation to be carried out.
        fill: Color of what comes from outside the image, in 0-255; ImageNet's mean, as in timm.

    Example:
        >>> image = torch.zeros(3, 8, 8, dtype=torch.uint8)
        >>> RandAugment()(image, 5, seed=0, epoch=1).shape
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
        check_integer("num_ops", self.num_ops, 1)
        check_number("num_ops", self.num_ops, "at most 12", lambda number: number <= 12)
        check_number("magnitude", self.magnitude, "in [0, 10]", lambda level: 0 <= level <= 10)
        check_number("std", self.std, "0 or more", lambda std: std >= 0)
        check_number("probability", self.probability, "in [0, 1]", lambda p: 0 <= p <= 1)

    def choices(self, index: int, width: int, *, seed: int, epoch: int) -> list[tuple[str, float]]:
        """Return the operations for an image and their values."""
        streams = range(_DRAWS * self.num_ops)
        bits = random_bits(torch.tensor([index]), streams, seed=seed, epoch=epoch, family=AUTO_AUGMENT)[:, 0]
        chosen = []
        for which, act, first, second, sign in bits.view(self.num_ops, _DRAWS):
            if float(uniform(act)) >= self.probability:
                continue
            radius, angle = math.sqrt(-2 * math.log1p(-float(uniform(first)))), 2 * math.pi * float(uniform(second))
            level = min(max(self.magnitude + self.std * radius * math.cos(angle), 0.0), 10.0) / 10
            name, value = _RAND_SPACE[int(integers(which, len(_RAND_SPACE)))]
            chosen.append((name, value(level, 1 if int(sign) >> 31 else -1, width)))
        return chosen

    def __call__(self, image: Tensor, index: int, *, seed: int, epoch: int) -> Tensor:
        """Transform an image, (3, H, W), uint8."""
        for name, value in self.choices(index, image.shape[-1], seed=seed, epoch=epoch):
            image = OPERATIONS[name](image, value, self.fill)
        return image


@dataclass(frozen=True, kw_only=True)
class TrivialAugment:
    """One operation of 14 at one of 31 strengths, both drawn uniformly for each image: torchvision's wide space.

    The draws are functions of (seed, epoch, image); otherwise as torchvision's `TrivialAugmentWide`, with bilinear
    interpolation.

    Args:
        fill: Color of what comes from outside the image, in 0-255.

    Example:
        >>> image = torch.zeros(3, 8, 8, dtype=torch.uint8)
        >>> TrivialAugment()(image, 5, seed=0, epoch=1).shape
        torch.Size([3, 8, 8])

    References:
        Müller and Hutter, "TrivialAugment: tuning-free yet state-of-the-art data augmentation", 2021.
    """

    fill: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def choice(self, index: int, *, seed: int, epoch: int) -> tuple[str, float]:
        """Return the operation for an image and its value."""
        bits = random_bits(torch.tensor([index]), range(3), seed=seed, epoch=epoch, family=AUTO_AUGMENT)[:, 0]
        name, value = _WIDE_SPACE[int(integers(bits[0], len(_WIDE_SPACE)))]
        level = int(integers(bits[1], _BINS)) / (_BINS - 1)
        return name, value(level, 1 if int(bits[2]) >> 31 else -1)

    def __call__(self, image: Tensor, index: int, *, seed: int, epoch: int) -> Tensor:
        """Transform an image, (3, H, W), uint8."""
        name, value = self.choice(index, seed=seed, epoch=epoch)
        return OPERATIONS[name](image, value, self.fill)


AutoAugment = RandAugment | TrivialAugment


def for_channels(auto_augment: AutoAugment | None, channels: int) -> AutoAugment | None:
    """Return an augmentation that fills images of this many channels: gray ones with the first value of its color."""
    return auto_augment and replace(auto_augment, fill=auto_augment.fill[:channels])  # type: ignore[arg-type]
