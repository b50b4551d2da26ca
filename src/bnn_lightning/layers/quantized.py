"""Quantization-aware layers of a few bits: dynamic, asymmetric ranges from minimum to maximum."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.functional.quantize import minmax_quantize
from bnn_lightning.utils.checks import check_integer


class _Quantized(nn.Module):
    """Bits of weights and input; mixed into torch's own layers, which `clip` values of their own.

    Args:
        *args: As torch's layer.
        weight_bits: 1 to 16.
        input_bits: 1 to 16, or None for an input that stays as it is.
        **kwargs: As torch's layer.
    """

    weight: Tensor
    clip: float

    def __init__(self, *args: Any, weight_bits: int = 8, input_bits: int | None = 8, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_integer("weight_bits", weight_bits, 1, 16)
        if input_bits is not None:
            check_integer("input_bits", input_bits, 1, 16)
        self.weight_bits, self.input_bits = weight_bits, input_bits

    @property
    def quantized_weight(self) -> Tensor:
        """The weights that `forward` multiplies with."""
        return quantize_weight(self.weight, self.weight_bits, clip=self.clip)

    def quantized(self, input: Tensor, *, row_dims: int) -> Tensor:
        """Quantize an input, whose first `row_dims` dimensions number the rows that have a range each."""
        bits = self.input_bits
        return input if bits is None else minmax_quantize(input, bits, row_dims=row_dims, clip=self.clip)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, weight_bits={self.weight_bits}, input_bits={self.input_bits}"


class QuantConv2d(_Quantized, nn.Conv2d):
    """A convolution whose weights, and input where `input_bits` is given, take 2^bits values; torch's otherwise.

    Each 3x3 slice of a filter has its own range, of a 1x1 convolution each filter; of the input each image. Gradients
    go straight through. It simulates the arithmetic in floating point: ranges are found anew in every forward.

    Args:
        *args: As `torch.nn.Conv2d`.
        weight_bits: 1 to 16.
        input_bits: 1 to 16, or None for an input that stays as it is.
        **kwargs: As `torch.nn.Conv2d`.

    Raises:
        ValueError: A number of bits out of range.

    Example:
        >>> import torch
        >>> conv = QuantConv2d(8, 4, 1, weight_bits=2, input_bits=4)
        >>> all(len(filter.unique()) <= 4 for filter in conv.quantized_weight.squeeze())
        True

    References:
        Guo et al., BNext, 2022: stem and classifier at 8 bits, squeeze-and-excite at 8 or 4.
    """

    clip = 1000.0

    def forward(self, input: Tensor) -> Tensor:
        y: Tensor = self._conv_forward(self.quantized(input, row_dims=1), self.quantized_weight, self.bias)
        return y


class QuantLinear(_Quantized, nn.Linear):
    """A linear layer whose weights, and input where `input_bits` is given, take 2^bits values; torch's otherwise.

    Each output has its own range, and each row of the input. See `QuantConv2d`.

    Args:
        *args: As `torch.nn.Linear`.
        weight_bits: 1 to 16.
        input_bits: 1 to 16, or None for an input that stays as it is.
        **kwargs: As `torch.nn.Linear`.

    Raises:
        ValueError: A number of bits out of range.

    Example:
        >>> import torch
        >>> QuantLinear(64, 2, weight_bits=2).quantized_weight[0].unique().numel()
        4
    """

    clip = 25.0

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(self.quantized(input, row_dims=input.dim() - 1), self.quantized_weight, self.bias)


def quantize_weight(weight: Tensor, bits: int, *, clip: float) -> Tensor:
    """Quantize a weight in units of twice its mean magnitude, output by output; only the clip depends on the unit.

    Args:
        weight: Shape (out_channels, ...); a filter of more than one pixel has a range for each of its slices.
        bits: Bits of a value.
        clip: Bound, in those units, beyond which there is no gradient.
    """
    kernels = weight.dim() > 2 and weight.shape[2:].numel() > 1
    unit = 2 * weight.detach().abs().flatten(1).mean(1).clamp(min=1e-30).view(-1, *[1] * (weight.dim() - 1))
    return minmax_quantize(weight / unit, bits, row_dims=2 if kernels else 1, clip=clip) * unit
