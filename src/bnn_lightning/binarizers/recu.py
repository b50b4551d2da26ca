"""ReCU: standardized and clamped weights with a learnable scale, and activations standardized by image."""

import torch
from torch import Tensor, nn

from bnn_lightning.binarizers.base import (
    AnnealedBinarizer,
    InputBinarizer,
    WeightBinarizer,
    check_progress,
    scalar_buffer,
)
from bnn_lightning.functional.annealing import recu_tau
from bnn_lightning.functional.recu import image_standardize, recu_clamp, recu_standardize
from bnn_lightning.functional.sign import approx_sign, sign_identity
from bnn_lightning.utils.checks import check_integer


class ReCUInput(InputBinarizer):
    """Binarize with ApproxSign; in training the input is divided by the deviation of its image before.

    The division changes gradients and no sign, so that evaluation leaves it out.

    Example:
        >>> ReCUInput()(torch.tensor([[-0.2, 0.0]]))
        tensor([[-1.,  1.]])

    References:
        Xu et al., ReCU, ICCV 2021.
    """

    def forward(self, x: Tensor) -> Tensor:
        return approx_sign(image_standardize(x) if self.training else x)


class ReCUWeights(AnnealedBinarizer, WeightBinarizer):
    """Binarize with the rectified clamp unit: standardize, clamp to the tau-quantile, sign with the identity gradient.

    Weights beyond the quantile get no gradient of their own. The scale is a learnable vector, drawn from [0, 1). tau
    rises from `tau_start` to `tau_end` as `functional.recu_tau` says, and is in the checkpoint.

    Args:
        num_channels: Output channels of the layer.
        tau_start: tau at progress 0.
        tau_end: tau at progress 1.

    Raises:
        ValueError: A value out of its range.

    Example:
        >>> binarizer = ReCUWeights(1)
        >>> signs, scale = binarizer.binarize(torch.tensor([[1.0, 2.0, 6.0]]))
        >>> signs, scale.shape
        (tensor([[-1., -1.,  1.]]), torch.Size([1]))
        >>> binarizer.set_progress(1.0)
        >>> binarizer.tau
        tensor(0.9900)

    References:
        Xu et al., ReCU, ICCV 2021.
    """

    tau: Tensor

    def __init__(self, num_channels: int, tau_start: float = 0.85, tau_end: float = 0.99) -> None:
        super().__init__()
        check_integer("num_channels", num_channels, 1)
        if not 0.5 < tau_start <= tau_end < 1:
            raise ValueError(
                f"`tau_start` and `tau_end` must satisfy 0.5 < tau_start <= tau_end < 1, got {tau_start} and {tau_end}."
            )
        self.tau_start, self.tau_end = tau_start, tau_end
        self.alpha = nn.Parameter(torch.rand(num_channels))
        self.register_buffer("tau", scalar_buffer(tau_start))

    def set_progress(self, progress: float) -> None:
        self.tau.fill_(recu_tau(check_progress(progress), self.tau_start, self.tau_end))

    def latent(self, weight: Tensor) -> Tensor:
        return recu_clamp(recu_standardize(weight), self.tau)

    def sign(self, latent: Tensor) -> Tensor:
        return sign_identity(latent)

    def scale(self, weight: Tensor) -> Tensor:
        return self.alpha

    def extra_repr(self) -> str:
        return f"{self.alpha.numel()}, tau_start={self.tau_start}, tau_end={self.tau_end}"
