"""MixUp and CutMix of the images of a batch, and of their labels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from bnn_lightning.data.random import keyed_generator
from bnn_lightning.utils.checks import check_integer, check_number


@dataclass(frozen=True, kw_only=True)
class MixupCutmix:
    r"""Mix every image of a batch with its neighbor by torchvision's `MixUp` or `CutMix`, in a ratio drawn per batch.

    MixUp adds the two images with the weights $\lambda$ and $1 - \lambda$; CutMix pastes a box of the neighbor that
    covers a part $1 - \lambda$ of the area. $\lambda$ is drawn from Beta(alpha, alpha). All draws are a pure function
    of (seed, epoch, batch, rank), made on the host: a resumed run mixes as the uninterrupted one, and nothing waits for
    the device. The neighbor is an image of the same device's batch.

    Args:
        mixup: alpha of MixUp; 0 turns it off.
        cutmix: alpha of CutMix; 0 turns it off.
        cutmix_share: Probability of CutMix for a batch that is mixed, where both are on.
        probability: Probability of a batch to be mixed.
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
            raise ValueError("`mixup` or `cutmix` must be positive, both are 0: without mixing leave `mix` out.")

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
            rank: Index of the device.

        Returns:
            Mixed images, (N, C, H, W); the label with the largest share, (N,); and the shares of all classes,
            (N, num_classes).
        """
        with keyed_generator(self.seed, epoch, batch, rank):
            if float(torch.rand(())) >= self.probability:
                return images, labels, F.one_hot(labels, num_classes).float()
            use_cutmix = float(torch.rand(())) < self.cutmix_share if self.mixup and self.cutmix else self.cutmix > 0
            mix = v2.CutMix if use_cutmix else v2.MixUp
            mixed, shares = mix(alpha=self.cutmix if use_cutmix else self.mixup, num_classes=num_classes)(
                images, labels
            )
        return mixed, shares.argmax(1), shares
