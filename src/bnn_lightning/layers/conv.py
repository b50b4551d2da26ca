"""A convolution with binary weights and activations."""

from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.binarizers.base import InputBinarizer, WeightBinarizer
from bnn_lightning.functional.dot import binary_dot
from bnn_lightning.layers.binary import (
    BinaryLayer,
    check_input_binarizer,
    check_pad_value,
    check_weight_binarizer,
)


class BinaryConv2d(BinaryLayer, nn.Conv2d):
    """A drop-in `torch.nn.Conv2d` whose input and weights are binarized.

    With both binarizers None it is torch's convolution: same signature, defaults and output. The dot product is
    computed on exact signs; the weight binarizer's scale and the bias come after it.

    Args:
        in_channels ... dtype: As `torch.nn.Conv2d`.
        input_binarizer: Binarizes the input, or None for a real-valued input.
        weight_binarizer: Binarizes the weights, or None for real-valued weights.
        pad_value: Value of padded elements after binarization: 0 as in the papers (a third value), -1 or +1.

    Raises:
        ValueError: `pad_value` is not 0, -1 or +1, or `padding_mode` is not "zeros" in a binary layer.

    Example:
        >>> from bnn_lightning.binarizers import Libra, SignSTE
        >>> conv = BinaryConv2d(16, 32, 3, padding=1, bias=False, input_binarizer=SignSTE(), weight_binarizer=Libra())
        >>> conv(torch.randn(1, 16, 8, 8)).shape
        torch.Size([1, 32, 8, 8])
        >>> conv.binary_weight.unique()
        tensor([-1.,  1.], grad_fn=<Unique2Backward0>)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        input_binarizer: InputBinarizer | None = None,
        weight_binarizer: WeightBinarizer | None = None,
        pad_value: float = 0.0,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,  # type: ignore[arg-type]
            device,
            dtype,
        )
        self.input_binarizer = check_input_binarizer(input_binarizer)
        self.weight_binarizer = check_weight_binarizer(weight_binarizer)
        self.pad_value = check_pad_value(pad_value)
        binary = input_binarizer is not None or weight_binarizer is not None or self.pad_value != 0.0
        if binary and padding_mode != "zeros":
            raise ValueError(
                f'`padding_mode` must be "zeros" in a binary convolution, got {padding_mode!r}; '
                "`pad_value` (0, -1 or +1) says what is padded."
            )

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, **binarizers: Any) -> Self:
        """Make a binary convolution that shares the parameters of `conv`.

        Args:
            conv: A convolution; its weight and bias become those of the result.
            **binarizers: `input_binarizer`, `weight_binarizer`, `pad_value`.
        """
        new = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            device="meta",
            **binarizers,
        )
        new._parameters.update(conv._parameters)
        return new.train(conv.training)

    def _pad(self, x: Tensor) -> tuple[Tensor, Any]:
        """Pad a binarized input with `pad_value`; return it and the padding that is left to the convolution."""
        if self.pad_value == 0.0 or not any(self._reversed_padding_repeated_twice):
            return x, self.padding
        return F.pad(x, self._reversed_padding_repeated_twice, value=self.pad_value), 0

    def dot(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, x_is_binary: bool = False) -> Tensor:
        """Convolve `x` with `weight`, with this layer's geometry and padding.

        Args:
            x: Shape (N, in_channels, H, W), binarized or real.
            weight: Shape of `self.weight`, binarized or real.
            bias: Shape (out_channels,) or None.
            x_is_binary: Whether `x` holds -1 and +1 only, which saves memory for the backward pass.
        """
        x, padding = self._pad(x)
        conv = partial(
            F.conv2d, bias=bias, stride=self.stride, padding=padding, dilation=self.dilation, groups=self.groups
        )
        return binary_dot(conv, x, weight, x_is_binary=x_is_binary)

    def per_channel(self, values: Tensor) -> Tensor:
        return values.view(-1, 1, 1)

    def forward(self, input: Tensor) -> Tensor:
        if self.input_binarizer is None and self.weight_binarizer is None and self.pad_value == 0.0:
            return nn.Conv2d.forward(self, input)
        return self.binary_forward(input)
