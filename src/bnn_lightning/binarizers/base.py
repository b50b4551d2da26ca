"""Base classes of binarizers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Binarizer(nn.Module):
    """A module whose output is exactly -1 or +1; while `is_binary` is False, a relaxation in [-1, 1].

    Quantizers to more than two values are binarizers, too: their outputs are whole numbers, `gives_signs` is False, and
    `bits` says how many bits a value takes. Binarizers hold hyperparameters; their formulas are in
    `bnn_lightning.functional`.
    """

    bits: int = 1
    gives_signs: bool = True

    @property
    def is_binary(self) -> bool:
        """Whether the output takes its final, discrete values now; answered without a host synchronization."""
        return True


class InputBinarizer(Binarizer):
    """Binarizes activations of shape (N, C, ...)."""

    def threshold(self) -> Tensor | None:
        """Return the (C,) values, or (1,), at and above which the output is +1; None is zero everywhere."""
        return None

    def scale(self) -> Tensor | None:
        """Return the scale of a layer's input, (1,), or None for 1: an output q stands for `scale * q + offset`."""
        return None

    def offset(self) -> Tensor | None:
        """Return the value that an output of 0 stands for, (1,), or None for 0."""
        return None


class WeightBinarizer(Binarizer):
    """Binarizes weights of shape (out_channels, ...)."""

    def latent(self, weight: Tensor) -> Tensor:
        """Return the real tensor that is signed (centered, standardized ...), shaped like `weight`."""
        return weight

    def sign(self, latent: Tensor) -> Tensor:
        """Return the signs of `latent`, with the binarizer's surrogate gradient."""
        raise TypeError(f"{type(self).__name__} does not define `sign`; a weight binarizer has to.")

    def scale(self, weight: Tensor) -> Tensor | None:
        """Return the (out_channels,) scale that the layer applies after the dot product, or None."""
        return None

    def offset(self, weight: Tensor) -> Tensor | None:
        """Return the (out_channels,) centers, or None for 0: a sign r stands for the weight `scale * r + offset`."""
        return None

    @property
    def scale_is_power_of_two(self) -> bool:
        """Whether every scale is a power of two, so that folding it into the weights changes no bit of the result."""
        return False

    def binarize(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return signs and scale together, for binarizers that share work between them."""
        return self(weight), self.scale(weight)

    def forward(self, weight: Tensor) -> Tensor:
        return self.sign(self.latent(weight))


class AnnealedBinarizer(nn.Module):
    """Mixin of binarizers that change in the course of training.

    What `set_progress` leaves behind is a buffer holding the quantity itself, so that it travels in checkpoints.
    """

    def set_progress(self, progress: float) -> None:
        """Move to `progress`, 0 at the start of the schedule and 1 at its end, without a host synchronization."""
        raise TypeError(f"{type(self).__name__} does not define `set_progress`; an annealed binarizer has to.")


BinarizerFactory = Callable[[int], Binarizer]


def check_progress(progress: float) -> float:
    """Return `progress` if it lies in [0, 1].

    Raises:
        ValueError: It does not.
    """
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"`progress` must lie between 0 and 1, got {progress}.")
    return float(progress)


def scalar_buffer(value: float) -> Tensor:
    """Return a 0-dimensional float32 tensor, for quantities that change during training."""
    return torch.tensor(value, dtype=torch.float32)
