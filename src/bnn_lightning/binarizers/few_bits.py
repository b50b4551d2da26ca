"""Quantizers to a few bits: DoReFa-Net's activations and weights, and ternary weights."""

import math

import torch
from torch import Tensor

from bnn_lightning.binarizers.base import InputBinarizer, WeightBinarizer
from bnn_lightning.functional.quantize import dorefa_activation, dorefa_weight, ternary_threshold, ternary_weight
from bnn_lightning.utils.checks import check_integer, check_positive


class DoReFaInput(InputBinarizer):
    """Quantize activations with `functional.dorefa_activation`: `round(n clip(x, 0, 1)) / n`, `n = 2^bits - 1`.

    The output is the whole number; the layer divides by n after the dot product. Gradient of the quotient: 1 where
    `0 <= x <= 1`, else 0.

    Args:
        bits: 1 to 8.

    Raises:
        ValueError: A number of bits out of range.

    Example:
        >>> quantizer = DoReFaInput(bits=2)
        >>> quantizer(torch.tensor([[-1.0, 0.4, 2.0]])), quantizer.scale()
        (tensor([[0., 1., 3.]]), tensor([0.3333]))

    References:
        Zhou et al., DoReFa-Net, 2016, equation 11.
    """

    gives_signs = False
    step: Tensor

    def __init__(self, bits: int = 2) -> None:
        super().__init__()
        check_integer("bits", bits, 1, 8)
        self.bits = bits
        # No state: it follows from `bits`.
        self.register_buffer("step", torch.tensor([1 / (2**bits - 1)]), persistent=False)

    def scale(self) -> Tensor:
        return self.step

    def forward(self, x: Tensor) -> Tensor:
        return dorefa_activation(x, self.bits)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class DoReFaWeights(WeightBinarizer):
    """Quantize weights with `functional.dorefa_weight`: `2 round(n (v / 2 + 1 / 2)) / n - 1`, `n = 2^bits - 1`.

    `v = tanh(w) / max|tanh(w)|`, the maximum over the layer and without gradient, as in larq. The output is the odd
    number n times this; the layer divides by n after the dot product.

    Args:
        bits: 2 to 8. For one bit the paper takes the sign and a scale: `XNORScale` has one for each output channel.

    Raises:
        ValueError: A number of bits out of range.

    Example:
        >>> signs, scale = DoReFaWeights(bits=2).binarize(torch.tensor([[-9.0, -0.1, 0.0, 9.0]]))
        >>> signs, scale
        (tensor([[-3., -1.,  1.,  3.]]), tensor([0.3333]))

    References:
        Zhou et al., DoReFa-Net, 2016, equation 9; Geiger and Team, Larq, JOSS 2020: its `DoReFa` quantizer.
    """

    gives_signs = False

    def __init__(self, bits: int = 2) -> None:
        super().__init__()
        check_integer("bits", bits, 2, 8)
        self.bits = bits

    def latent(self, weight: Tensor) -> Tensor:
        limited = torch.tanh(weight)
        return limited / limited.detach().abs().amax().clamp(min=torch.finfo(limited.dtype).tiny)

    def sign(self, latent: Tensor) -> Tensor:
        return dorefa_weight(latent, self.bits)

    def scale(self, weight: Tensor) -> Tensor:
        return weight.new_full((weight.shape[0],), 1 / (2**self.bits - 1))

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class TernaryWeights(WeightBinarizer):
    """Quantize weights to -1, 0 and +1 with `functional.ternary_weight`, which take two bits each.

    Args:
        threshold: Weights of at most this magnitude are 0. None takes `0.7 mean|w|` of the layer, as ternary weight
            networks do; larq's `SteTern` has 0.05.
        scaled: Whether the scale is the mean magnitude of the layer's weights beyond the threshold, without gradient
            (ternary weight networks); larq has none.
        clip: Gradients where `|w| > clip` are zero.

    Raises:
        ValueError: A value out of its range.

    Example:
        >>> values, scale = TernaryWeights().binarize(torch.tensor([[-2.0, 0.1, 1.0, 0.5]]))
        >>> values, scale
        (tensor([[-1.,  0.,  1.,  0.]]), tensor([1.5000]))

    References:
        Li and Liu, Ternary Weight Networks, 2016; Geiger and Team, Larq, JOSS 2020: its `SteTern` quantizer.
    """

    bits = 2
    gives_signs = False

    def __init__(self, threshold: float | None = None, scaled: bool = True, clip: float = 1.0) -> None:
        super().__init__()
        if threshold is not None and not 0 <= threshold < math.inf:
            raise ValueError(f"`threshold` must not be negative, got {threshold}: None takes 0.7 mean|w|.")
        check_positive("clip", clip)
        self.threshold, self.scaled, self.clip = threshold, scaled, clip

    def _threshold(self, weight: Tensor) -> Tensor:
        return ternary_threshold(weight) if self.threshold is None else weight.new_full((), self.threshold)

    def sign(self, latent: Tensor) -> Tensor:
        return ternary_weight(latent, self._threshold(latent), self.clip)

    def scale(self, weight: Tensor) -> Tensor | None:
        if not self.scaled:
            return None
        magnitude = weight.detach().abs()
        kept = (magnitude > self._threshold(weight)).to(magnitude.dtype)
        return ((magnitude * kept).sum() / kept.sum().clamp(min=1)).expand(weight.shape[0])

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, scaled={self.scaled}, clip={self.clip}"
