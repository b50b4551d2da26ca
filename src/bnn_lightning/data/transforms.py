"""Batched augmentation, drawn for each image by (seed, epoch, image): alike on any device, rank and batch."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bnn_lightning.data.random import AUGMENTATION, LIGHTING, integers, random_bits, uniform
from bnn_lightning.utils.checks import check_choice, check_integer, check_number

PaddingMode = Literal["edge", "zero", "reflect"]

# Principal components of ImageNet's RGB values in [0, 1]: AlexNet's idea, the numbers of fb.resnet.torch.
_PCA_VALUES = (0.2175, 0.0188, 0.0045)
_PCA_VECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random flip, crop and small affine map; the default does nothing.

    Args:
        flip: Probability of a horizontal flip.
        padding: Pixels added on each side, from which a crop of the original size is drawn.
        padding_mode: Content of the added pixels: "edge", "zero" or "reflect" (without repeating the edge).
        degrees: Rotation, drawn from [-degrees, degrees].
        scale: Zoom, drawn from [1 - scale, 1 + scale].
        shear: Horizontal shear in degrees, drawn from [-shear, shear].

    Example:
        >>> images = torch.arange(2 * 16, dtype=torch.uint8).reshape(2, 1, 4, 4)
        >>> augment = Augmentation(flip=0.5, padding=1)
        >>> padded, index = augment.pad(images), torch.tensor([1])
        >>> tuple(augment(padded, index, seed=0, epoch=0).shape)
        (1, 1, 4, 4)

    References:
        He et al., "Deep residual learning for image recognition", 2016, section 4.2 (flip and crop of CIFAR).
    """

    flip: float = 0.0
    padding: int = 0
    padding_mode: PaddingMode = "zero"
    degrees: float = 0.0
    scale: float = 0.0
    shear: float = 0.0

    def __post_init__(self) -> None:
        check_number("flip", self.flip, "a probability in [0, 1]", lambda p: 0 <= p <= 1)
        check_integer("padding", self.padding, 0)
        check_number("degrees", self.degrees, "in [0, 180]", lambda angle: 0 <= angle <= 180)
        check_number("scale", self.scale, "in [0, 1)", lambda share: 0 <= share < 1)
        check_number("shear", self.shear, "in [0, 90)", lambda angle: 0 <= angle < 90)
        check_choice("padding_mode", self.padding_mode, PaddingMode)

    def pad(self, images: Tensor) -> Tensor:
        """Return the padded images that crops are cut from, (N, C, H, W) to (N, C, H + 2 padding, W + 2 padding)."""
        return pad_images(images, self.padding, self.padding_mode)

    def __call__(self, padded: Tensor, index: Tensor, *, seed: int, epoch: int) -> Tensor:
        """Cut one augmented image for each index.

        Args:
            padded: Result of `pad` for the whole set, (N, C, H + 2 padding, W + 2 padding), uint8.
            index: The images, (B,), int64, on the same device.
            seed: Seed of the run.
            epoch: Number of the epoch.

        Returns:
            Images in [0, 1], (B, C, H, W), float32.
        """
        moves = 2 * self.padding + 1
        if not (self.flip or self.padding or self._is_affine):
            return to_float(padded.index_select(0, index))
        bits = random_bits(index, AUGMENTATION, seed=seed, epoch=epoch)
        flip = bits[0] < int(self.flip * 2**32) if self.flip else None
        images = to_float(
            crop_and_flip(padded, index, integers(bits[1], moves), integers(bits[2], moves), flip, self.padding)
        )
        return self._affine(images, 2 * uniform(bits[3:]) - 1) if self._is_affine else images

    @property
    def _is_affine(self) -> bool:
        return bool(self.degrees or self.scale or self.shear)

    def _affine(self, images: Tensor, draws: Tensor) -> Tensor:
        """Rotate, zoom and shear about the center, outside is 0; `draws` in [-1, 1) are (3, N)."""
        angle, shear = draws[0] * math.radians(self.degrees), torch.tan(draws[2] * math.radians(self.shear))
        zoom = 1 / (1 + draws[1] * self.scale)
        cos, sin, zero = torch.cos(angle) * zoom, torch.sin(angle) * zoom, torch.zeros_like(angle)
        theta = torch.stack([cos, cos * shear + sin, zero, -sin, cos - sin * shear, zero], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def pad_images(images: Tensor, padding: int, mode: PaddingMode) -> Tensor:
    """Pad height and width of uint8 images, (N, C, H, W), on each side by `padding`.

    Raises:
        ValueError: A reflection would reach past the opposite edge.
    """
    if padding == 0:
        return images
    height, width = images.shape[-2:]
    if mode == "zero":
        return F.pad(images, (padding,) * 4)
    if mode == "reflect" and padding >= min(height, width):
        raise ValueError(f"`padding` must be below the image size {min(height, width)} to reflect, got {padding}.")
    for dim, size in ((2, height), (3, width)):
        at = torch.arange(-padding, size + padding, device=images.device)
        at = at.clamp(0, size - 1) if mode == "edge" else (size - 1) - ((size - 1) - at.abs()).abs()
        images = images.index_select(dim, at)
    return images


def crop_and_flip(
    padded: Tensor, index: Tensor, top: Tensor, left: Tensor, flip: Tensor | None, padding: int
) -> Tensor:
    """Cut a window out of each chosen image, and mirror some: bytes are moved, nothing is computed in floating point.

    A row of a window is W consecutive bytes, so that one `index_select` over all the rows that start at any byte of
    the set (an overlapping view of it) cuts the whole batch.

    Args:
        padded: (N, C, H + 2 padding, W + 2 padding), uint8, contiguous.
        index: Chosen images, (B,), int64.
        top: First row of each window, (B,), in [0, 2 padding].
        left: First column, (B,).
        flip: Windows to mirror, (B,), bool; None mirrors none.
        padding: Pixels that were added on each side.

    Returns:
        (B, C, H, W), uint8.
    """
    channels, rows, columns = padded.shape[1:]
    height, width = rows - 2 * padding, columns - 2 * padding
    windows = padded.as_strided((padded.numel() - width + 1, width), (1, 1))
    plane = torch.arange(channels, device=index.device).unsqueeze(1) * (rows * columns)
    line = (plane + torch.arange(height, device=index.device) * columns).view(1, -1)
    first = (index * (channels * rows * columns) + top * columns + left).unsqueeze(1)
    images = windows.index_select(0, (first + line).view(-1)).view(len(index), channels, height, width)
    if flip is None:
        return images
    # Choose by bits: `torch.where` on bytes is several times slower on the CPU.
    mask = (flip.to(torch.uint8) * 255).view(-1, 1, 1, 1)
    mirrored = images.flip(-1)
    mirrored ^= images
    mirrored &= mask
    mirrored ^= images
    return mirrored


def to_float(images: Tensor) -> Tensor:
    """Map uint8 to float32 in [0, 1], bit for bit as torchvision's `ToTensor` does."""
    return images.to(torch.float32).div_(255)


def lighting(images: Tensor, index: Tensor, std: float, *, seed: int, epoch: int) -> Tensor:
    """Add AlexNet's color noise along the principal components of ImageNet's RGB values.

    The components are those of values in [0, 1], so this runs after the scaling; the noise may leave [0, 1] by a few
    hundredths.

    Args:
        images: (N, 3, H, W), float32 in [0, 1].
        index: Indices of the images, (N,), int64.
        std: Standard deviation of the three coefficients, 0.1 in AlexNet.
        seed: Seed of the run.
        epoch: Number of the epoch.

    Returns:
        (N, 3, H, W).

    References:
        Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural networks", 2012,
        section 4.1.
    """
    draws = uniform(random_bits(index, LIGHTING, seed=seed, epoch=epoch))
    normal = torch.sqrt(-2 * torch.log1p(-draws[:3])) * torch.cos(2 * math.pi * draws[3:])
    values, vectors = principal_components(images.device)
    shift = vectors @ (normal * (std * values))
    return images + shift.t().reshape(-1, 3, 1, 1)


@cache
def principal_components(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the values (3, 1) and vectors (3, 3), copied to the device once: a copy in every step would hold it up."""
    return torch.tensor(_PCA_VALUES, device=device).unsqueeze(1), torch.tensor(_PCA_VECTORS, device=device)
