"""A transposed convolution with binary weights and activations."""

from functools import partial
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.binarizers.base import InputBinarizer, WeightBinarizer
from bnn_lightning.functional.dot import binary_dot
from bnn_lightning.layers.binary import BinaryLayer, check_binarizers


class BinaryConvTranspose2d(BinaryLayer, nn.ConvTranspose2d):
    """A drop-in `torch.nn.ConvTranspose2d` whose input and weights are binarized.

    With both binarizers None it is torch's layer: same signature, defaults and output. The dot product is computed on
    exact signs; the weight binarizer's scale and the bias come after it. The weight is (in_channels, out_channels /
    groups, height, width); weight binarizers see it as filters, (out_channels, in_channels / groups, height, width).

    Args:
        in_channels ... dtype: As `torch.nn.ConvTranspose2d`.
        input_binarizer: Binarizes the input, or None for a real-valued input.
        weight_binarizer: Binarizes the weights, or None for real-valued weights.

    Example:
        >>> from bnn_lightning.binarizers import SignSTE, XNORScale
        >>> up = BinaryConvTranspose2d(16, 8, 2, stride=2, input_binarizer=SignSTE(), weight_binarizer=XNORScale())
        >>> up(torch.randn(1, 16, 4, 4)).shape
        torch.Size([1, 8, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        output_padding: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, int] = 1,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        input_binarizer: InputBinarizer | None = None,
        weight_binarizer: WeightBinarizer | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            groups,
            bias,
            dilation,
            padding_mode,  # type: ignore[arg-type]
            device,
            dtype,
        )
        check_binarizers(input_binarizer, weight_binarizer)
        self.input_binarizer, self.weight_binarizer = input_binarizer, weight_binarizer

    @classmethod
    def from_conv(cls, conv: nn.ConvTranspose2d, **binarizers: Any) -> Self:
        """Make a binary layer that shares the parameters of `conv`.

        Args:
            conv: A transposed convolution; its weight and bias become those of the result.
            **binarizers: `input_binarizer`, `weight_binarizer`.
        """
        new = cls(
            conv.in_channels,
            conv.out_channels,
            cast(Any, conv.kernel_size),
            cast(Any, conv.stride),
            cast(Any, conv.padding),
            cast(Any, conv.output_padding),
            conv.groups,
            conv.bias is not None,
            cast(Any, conv.dilation),
            conv.padding_mode,
            device="meta",
            **binarizers,
        )
        return new.share(conv)

    def filters(self, weight: Tensor) -> Tensor:
        """View (in_channels, out_channels / groups, ...) as (out_channels, in_channels / groups, ...)."""
        return torch.unflatten(weight, 0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)

    def from_filters(self, filters: Tensor) -> Tensor:
        return torch.unflatten(filters, 0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)

    def _transpose(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        padding = cast(tuple[int, ...], self.padding)  # never a word: torch refuses those
        return F.conv_transpose2d(
            x, weight, bias, self.stride, padding, self.output_padding, self.groups, self.dilation
        )

    def dot(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, x_is_binary: bool = False) -> Tensor:
        """Convolve `x` with the transpose of `weight`, with this layer's geometry.

        Args:
            x: Shape (N, in_channels, H, W), binarized or real.
            weight: Shape of `self.weight`, binarized or real.
            bias: Shape (out_channels,) or None.
            x_is_binary: Whether `x` holds -1 and +1 only, which saves memory for the backward pass.
        """
        return binary_dot(partial(self._transpose, bias=bias), x, weight, x_is_binary=x_is_binary)

    def input_sums(self, x: Tensor, *, x_is_binary: bool = False) -> Tensor:
        ones = self.weight.new_ones(self.in_channels, 1, *self.kernel_size)
        sums = self.dot(x, ones, x_is_binary=x_is_binary)
        return sums if self.groups == 1 else sums.repeat_interleave(self.out_channels // self.groups, -3)

    def tap_sums(self, x: Tensor, weight: Tensor) -> Tensor:
        ones = weight.new_ones(1, self.groups, *x.shape[-2:])
        return self._transpose(ones, torch.unflatten(weight, 0, (self.groups, -1)).sum(1))[0]

    def per_channel(self, values: Tensor) -> Tensor:
        return values.view(-1, 1, 1)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H', W').

        Args:
            input: Real-valued input.
            output_size: H' and W', of a layer without binarizers alone: a binary layer has its `output_padding`.

        Raises:
            ValueError: `output_size` in a binary layer.
        """
        if self.input_binarizer is None and self.weight_binarizer is None:
            return nn.ConvTranspose2d.forward(self, input, output_size)
        if output_size is not None:
            raise ValueError(
                f"`output_size` ({output_size}) is not taken by a binary transposed convolution: give "
                "`output_padding` when it is made."
            )
        return self.binary_forward(input)
