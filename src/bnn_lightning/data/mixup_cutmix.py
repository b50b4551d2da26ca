"""Mixing images of a batch with each other, and their labels with them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bnn_lightning.data.checks import check_integer, check_number

Draws = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class MixupCutmix:
    r"""MixUp and CutMix: every image is mixed with its neighbor in the batch, in a share drawn for each image.

    MixUp adds the two images in the shares $\lambda$ and $1 - \lambda$; CutMix puts a box of the neighbor, a share
    $1 - \lambda$ of the area, into the image. $\lambda$ is from Beta(alpha, alpha). The numbers are a pure function of
    (seed, epoch, batch, rank), drawn on the host: a resumed run mixes as the uninterrupted one, and nothing waits for
    the device. The neighbor is one of the same device's batch.

    Args:
        mixup: alpha of MixUp; 0 is none.
        cutmix: alpha of CutMix; 0 is none.
        cutmix_share: Probability of CutMix for an image that is mixed, where there are both.
        probability: Of an image to be mixed.
        seed: Seed of the run.

    Raises:
        ValueError: A value is out of its range, or both alphas are 0.

    Example:
        >>> mix = MixupCutmix(mixup=0.2)
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
        >>> mixed, mixed_labels, shares = mix(images, labels, 3, epoch=0, batch=0)
        >>> mixed.shape, shares.shape
        (torch.Size([4, 3, 8, 8]), torch.Size([4, 3]))

    References:
        Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018; Yun et al., "CutMix: Regularization
        strategy to train strong classifiers with localizable features", ICCV 2019.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    cutmix_share: float = 0.5
    probability: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("mixup", self.mixup, "0 or more", lambda alpha: alpha >= 0)
        check_number("cutmix", self.cutmix, "0 or more", lambda alpha: alpha >= 0)
        check_number("cutmix_share", self.cutmix_share, "a probability in [0, 1]", lambda p: 0 <= p <= 1)
        check_number("probability", self.probability, "a probability in [0, 1]", lambda p: 0 <= p <= 1)
        check_integer("seed", self.seed, 0)
        if not self.mixup and not self.cutmix:
            raise ValueError("`mixup` or `cutmix` must be positive, both are 0: leave `MixupCutmix` out.")

    def __call__(
        self, images: Tensor, labels: Tensor, num_classes: int, *, epoch: int, batch: int, rank: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mix a batch.

        Args:
            images: Shape (N, C, H, W).
            labels: Shape (N,), integers.
            num_classes: Number of classes.
            epoch: Number of the epoch.
            batch: Number of the batch within it.
            rank: Which device it is.

        Returns:
            Mixed images, (N, C, H, W); the label with the larger share, (N,); and the shares of all, (N, num_classes).
        """
        size = (images.shape[-2], images.shape[-1])
        outside, share, box = (
            torch.from_numpy(drawn).to(images.device, non_blocking=True)
            for drawn in self._draw(len(images), size, (self.seed, epoch, batch, rank))
        )
        own = (outside.view(-1, 1, 1) * ~_inside(box, size)).unsqueeze(1).to(images.dtype)
        other = labels.roll(1)
        share = share.unsqueeze(1)
        shares = F.one_hot(labels, num_classes) * share + F.one_hot(other, num_classes) * (1 - share)
        return torch.lerp(images.roll(1, 0), images, own), torch.where(share[:, 0] >= 0.5, labels, other), shares

    def _draw(self, number: int, size: tuple[int, int], key: tuple[int, ...]) -> tuple[Draws, Draws, Draws]:
        """Return what is left of the own image outside of the box, its share in the label, and the box, (4, N)."""
        random = np.random.default_rng(key)
        mixed, cut = random.random(number) < self.probability, random.random(number) < self._cut_share
        share = np.where(cut, random.beta(self.cutmix or 1, self.cutmix or 1, number), 1.0)
        centre = random.random((2, number)) * np.array(size)[:, None]
        half = np.sqrt(1 - share) * np.array(size)[:, None] / 2
        first, last = (np.clip(np.round(centre + side * half), 0, np.array(size)[:, None]) for side in (-1, 1))
        box = np.stack([first[0], last[0], first[1], last[1]]).astype(np.int64) * (mixed & cut)
        area = (box[1] - box[0]) * (box[3] - box[2]) / (size[0] * size[1])
        outside = np.where(mixed & ~cut, random.beta(self.mixup or 1, self.mixup or 1, number), 1.0)
        return outside.astype(np.float32), (outside - area).astype(np.float32), box

    @property
    def _cut_share(self) -> float:
        return self.cutmix_share if self.mixup and self.cutmix else float(bool(self.cutmix))


def _inside(box: Tensor, size: tuple[int, int]) -> Tensor:
    """Return where the boxes (top, bottom, left, right), (4, N), are, (N, H, W)."""
    rows, columns = (torch.arange(length, device=box.device) for length in size)
    top, bottom, left, right = box.unsqueeze(-1)
    between = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    inside: Tensor = between[0].unsqueeze(2) & between[1].unsqueeze(1)
    return inside
