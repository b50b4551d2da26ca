"""Convolutions with binary weights and activations, in one, two and three dimensions."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.binarizers.base import InputBinarizer, WeightBinarizer
from bnn_lightning.functional.dot import binary_dot
from bnn_lightning.layers.binary import BinaryLayer, check_binarizers, check_pad_value


class BinaryConv(BinaryLayer):
    """The geometry of a binary convolution; mixed into torch's of one, two and three dimensions."""

    convolve: ClassVar[Callable[..., Tensor]]
    dimensions: ClassVar[int]
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    _reversed_padding_repeated_twice: list[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
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
        sides = self._sides(padding)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding if sides is None else 0,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        if sides is not None:
            self.padding = sides
            self._reversed_padding_repeated_twice = [
                sides[2 * i + j] for i in reversed(range(len(sides) // 2)) for j in (0, 1)
            ]
        check_binarizers(input_binarizer, weight_binarizer)
        self.input_binarizer, self.weight_binarizer = input_binarizer, weight_binarizer
        self.pad_value = check_pad_value(pad_value)
        binary = input_binarizer is not None or weight_binarizer is not None or self.pad_value != 0.0
        if (binary or sides is not None) and padding_mode != "zeros":
            raise ValueError(
                f'`padding_mode` must be "zeros" in a binary convolution, got {padding_mode!r}; '
                "`pad_value` (0, -1 or +1) says what is padded."
            )

    @classmethod
    def from_conv(cls, conv: Any, **binarizers: Any) -> Self:
        """Make a binary convolution that shares the parameters of `conv`.

        Args:
            conv: A convolution of torch's, of as many dimensions; its weight and bias become those of the result.
            **binarizers: `input_binarizer`, `weight_binarizer`, `pad_value`.
        """
        new = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            device="meta",
            **binarizers,
        )
        return new.share(conv)

    @classmethod
    def _sides(cls, padding: str | int | tuple[int, ...]) -> tuple[int, ...] | None:
        """Return a padding of two numbers a dimension, before and behind; None where torch takes it as it is."""
        if isinstance(padding, str | int) or len(padding) != 2 * cls.dimensions:
            return None
        return tuple(padding)

    @property
    def _is_uneven(self) -> bool:
        """Whether the padding has two numbers a dimension."""
        return len(self.padding) == 2 * self.dimensions and not isinstance(self.padding, str)

    def pad(self, x: Tensor) -> tuple[Tensor, Any]:
        """Pad a binarized input with `pad_value`; return it and the padding that is left to the convolution."""
        by_torch = self.pad_value == 0.0 and not self._is_uneven
        if by_torch or not any(self._reversed_padding_repeated_twice):
            return x, 0 if self._is_uneven else self.padding
        return F.pad(x, self._reversed_padding_repeated_twice, value=self.pad_value), 0

    def dot(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, x_is_binary: bool = False) -> Tensor:
        """Convolve `x` with `weight`, with this layer's geometry and padding.

        Args:
            x: Shape (N, in_channels, ...), binarized or real.
            weight: Shape of `self.weight`, binarized or real.
            bias: Shape (out_channels,) or None.
            x_is_binary: Whether `x` holds -1 and +1 only, which saves memory for the backward pass.
        """
        x, padding = self.pad(x)
        conv = partial(
            type(self).convolve,
            bias=bias,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        return binary_dot(conv, x, weight, x_is_binary=x_is_binary)

    def input_sums(self, x: Tensor, *, x_is_binary: bool = False) -> Tensor:
        ones = self.weight.new_ones(self.groups, *self.weight.shape[1:])
        sums = self.dot(x, ones, x_is_binary=x_is_binary)
        if self.groups == 1:
            return sums
        return sums.repeat_interleave(self.out_channels // self.groups, -1 - len(self.kernel_size))

    def tap_sums(self, x: Tensor, weight: Tensor) -> Tensor:
        if self.pad_value != 0.0 or not any(self._reversed_padding_repeated_twice):
            return self.per_channel(weight.flatten(1).sum(1))
        # All channels of a pixel are inside or outside together: one channel of ones is enough.
        ones, padding = self.pad(weight.new_ones(1, 1, *x.shape[-len(self.kernel_size) :]))
        geometry = {"stride": self.stride, "padding": padding, "dilation": self.dilation}
        return type(self).convolve(ones, weight.sum(1, keepdim=True), None, **geometry)[0]

    def per_channel(self, values: Tensor) -> Tensor:
        return values.view(-1, *[1] * len(self.kernel_size))

    def forward(self, input: Tensor) -> Tensor:
        plain = self.input_binarizer is None and self.weight_binarizer is None and self.pad_value == 0.0
        if plain and not self._is_uneven:
            return cast(Tensor, super().forward(input))
        return self.binary_forward(input)


class BinaryConv1d(BinaryConv, nn.Conv1d):
    """A drop-in `torch.nn.Conv1d` whose input and weights are binarized: see `BinaryConv2d`.

    Args:
        in_channels ... dtype: As `torch.nn.Conv1d`.
        input_binarizer ... pad_value: As `BinaryConv2d`.

    Example:
        >>> from bnn_lightning.binarizers import SignSTE, XNORScale
        >>> conv = BinaryConv1d(16, 32, 5, padding=2, input_binarizer=SignSTE(), weight_binarizer=XNORScale())
        >>> conv(torch.randn(1, 16, 50)).shape
        torch.Size([1, 32, 50])
    """

    convolve = F.conv1d
    dimensions = 1


class BinaryConv2d(BinaryConv, nn.Conv2d):
    """A drop-in `torch.nn.Conv2d` whose input and weights are binarized.

    With both binarizers None it is torch's convolution: same signature, defaults and output. The dot product is
    computed on exact signs; the weight binarizer's scale and the bias come after it (under autocast to 16 bits the
    weights take the scale). With `groups=in_channels` it is a depthwise convolution.

    Args:
        in_channels ... dtype: As `torch.nn.Conv2d`; `padding` may have four numbers, too: above, below, on the left and
            on the right. TensorFlow pads so: its "same" with stride 2 is (0, 1, 0, 1) for a 3x3 kernel on even sides.
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

    convolve = F.conv2d
    dimensions = 2


class BinaryConv3d(BinaryConv, nn.Conv3d):
    """A drop-in `torch.nn.Conv3d` whose input and weights are binarized: see `BinaryConv2d`.

    Args:
        in_channels ... dtype: As `torch.nn.Conv3d`.
        input_binarizer ... pad_value: As `BinaryConv2d`.

    Example:
        >>> from bnn_lightning.binarizers import SignSTE, XNORScale
        >>> conv = BinaryConv3d(4, 8, 3, padding=1, input_binarizer=SignSTE(), weight_binarizer=XNORScale())
        >>> conv(torch.randn(1, 4, 5, 6, 7)).shape
        torch.Size([1, 8, 5, 6, 7])
    """

    convolve = F.conv3d
    dimensions = 3
