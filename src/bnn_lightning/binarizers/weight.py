"""Weight binarizers: latent tensor, surrogate gradient, and scale after the dot product."""

from typing import Literal

from torch import Tensor

from bnn_lightning.binarizers.annealed import EDE
from bnn_lightning.binarizers.base import WeightBinarizer
from bnn_lightning.functional.scale import divide_gradient, libra_standardise, power_of_two_scale, xnor_scale
from bnn_lightning.functional.sign import sign_ede, sign_ste
from bnn_lightning.utils.checks import check_choice, check_positive

ScaleGradient = Literal["full", "detached", "identity"]


class WeightSign(WeightBinarizer):
    """Binarize with the plain sign of the latent weights, without a scale.

    Args:
        clip: Gradients where `|w| > clip` are zero; `inf` is the plain identity of BinaryNet and of SKD-BNN's MLP.

    Example:
        >>> import torch
        >>> WeightSign()(torch.tensor([[0.3, -2.0, 0.0]]))
        tensor([[ 1., -1.,  1.]])
    """

    def __init__(self, clip: float = float("inf")) -> None:
        super().__init__()
        check_positive("clip", clip)
        self.clip = clip

    def sign(self, latent: Tensor) -> Tensor:
        return sign_ste(latent, self.clip)

    def extra_repr(self) -> str:
        return f"clip={self.clip}"


class XNORScale(WeightSign):
    r"""Binarize with the plain sign; the scale is the mean magnitude of each output channel.

    With B = scale * sign(w), the weight that the layer multiplies with in effect, and its gradient G, that of w is

    - "full" (XNOR-Net): of the sign, `scale * G` where `|w| <= clip`, plus that of the scale;
    - "detached" (Bi-Real Net's paper, magnitude-aware gradient): `scale * G` where `|w| <= clip`, else 0;
    - "identity" (ReActNet, and the code that Bi-Real Net's authors published): G itself where `|w| <= clip`, else 0.

    Args:
        clip: Gradients of the sign where `|w| > clip` are zero.
        gradient: Name of one of the three.

    Raises:
        ValueError: A value out of its range.

    Example:
        >>> import torch
        >>> signs, scale = XNORScale().binarize(torch.tensor([[0.5, -1.5]]))
        >>> signs, scale
        (tensor([[ 1., -1.]]), tensor([1.]))

    References:
        Rastegari et al., XNOR-Net, ECCV 2016; Liu et al., Bi-Real Net, ECCV 2018: its magnitude-aware gradient; Liu et
        al., ReActNet, ECCV 2020.
    """

    def __init__(self, clip: float = 1.0, gradient: ScaleGradient = "full") -> None:
        super().__init__(clip)
        check_choice("gradient", gradient, ScaleGradient)
        self.gradient = gradient

    def scale(self, weight: Tensor) -> Tensor:
        return xnor_scale(weight if self.gradient == "full" else weight.detach())

    def binarize(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        scale, latent = self.scale(weight), weight
        if self.gradient == "identity":
            latent = divide_gradient(weight, scale)
        return self.sign(latent), scale

    def forward(self, weight: Tensor) -> Tensor:
        return self.binarize(weight)[0]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, gradient={self.gradient!r}"


class Libra(EDE, WeightBinarizer):
    """Libra parameter binarization: center and standardize each output channel, sign with EDE, power-of-two scale.

    Args:
        t_min: EDE's sharpness at progress 0.
        t_max: EDE's sharpness at progress 1.
        eps: Added to the variance of a channel.

    Example:
        >>> import torch
        >>> signs, scale = Libra().binarize(torch.tensor([[1.0, 2.0, 6.0]]))
        >>> signs, scale
        (tensor([[-1., -1.,  1.]]), tensor([1.]))

    References:
        Qin et al., IR-Net, CVPR 2020, section 3.2.
    """

    def __init__(self, t_min: float = 1e-3, t_max: float = 10.0, eps: float = 1e-8) -> None:
        super().__init__(t_min, t_max)
        check_positive("eps", eps)
        self.eps = eps

    @property
    def scale_is_power_of_two(self) -> bool:
        return True

    def latent(self, weight: Tensor) -> Tensor:
        return libra_standardise(weight, self.eps)

    def sign(self, latent: Tensor) -> Tensor:
        return sign_ede(latent, self.t)

    def scale(self, weight: Tensor) -> Tensor:
        return power_of_two_scale(self.latent(weight.detach()))

    def binarize(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        latent = self.latent(weight)
        return self.sign(latent), power_of_two_scale(latent)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, eps={self.eps}"
