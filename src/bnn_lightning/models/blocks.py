"""Factory of binary layers; residual blocks and shortcuts of the ResNets."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.binarizers.base import BinarizerFactory, InputBinarizer, WeightBinarizer
from bnn_lightning.binarizers.factory import binarizer_factory, check_factory
from bnn_lightning.layers.activation import Hardtanh
from bnn_lightning.layers.conv import BinaryConv2d
from bnn_lightning.layers.linear import BinaryLinear

Shortcut = Callable[[int, int, int], nn.Module]
# Called with a number of channels.
Activation = Callable[[int], nn.Module]
# Kind of a network: binary, its float twin, or binary activations with real weights (the first step of two).
Binary = bool | Literal["activations"]


@dataclass(frozen=True)
class LayerFactory:
    """Makes the layers of a network that are binary, or, without factories, those of its float twin.

    Args:
        input_binarizer: Called with a layer's number of input channels.
        weight_binarizer: Called with a layer's number of output channels.
        pad_value: Padding of the convolutions after binarization: 0, -1 or +1. A float twin pads with 0.
    """

    input_binarizer: BinarizerFactory | None = None
    weight_binarizer: BinarizerFactory | None = None
    pad_value: float = 0.0

    def __post_init__(self) -> None:
        check_factory("input_binarizer", self.input_binarizer)
        check_factory("weight_binarizer", self.weight_binarizer)

    def conv3x3(self, in_channels: int, out_channels: int, stride: int = 1) -> BinaryConv2d:
        """Make a 3x3 convolution with padding 1 and no bias."""
        return self.conv(in_channels, out_channels, 3, stride)

    def conv(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> BinaryConv2d:
        """Make a convolution with an odd square kernel, padded by half of it, and no bias."""
        return BinaryConv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            kernel_size // 2,
            bias=False,
            input_binarizer=self.input(in_channels),
            weight_binarizer=self.weight(out_channels),
            pad_value=self.pad_value,
        )

    def linear(
        self, in_features: int, out_features: int, *, bias: bool = True, real_input: bool = False
    ) -> BinaryLinear:
        """Make a linear layer with a real bias or none; with `real_input` its weights alone are binary."""
        return BinaryLinear(
            in_features,
            out_features,
            bias,
            input_binarizer=None if real_input else self.input(in_features),
            weight_binarizer=self.weight(out_features),
        )

    def input(self, channels: int) -> InputBinarizer | None:
        """Make the binarizer of an input; None for a real one."""
        made = None if self.input_binarizer is None else self.input_binarizer(channels)
        if made is not None and not isinstance(made, InputBinarizer):
            raise ValueError(f"`input_binarizer` must make an InputBinarizer, got {type(made).__name__}.")
        return made

    def weight(self, channels: int) -> WeightBinarizer | None:
        """Make the binarizer of weights; None for real ones."""
        made = None if self.weight_binarizer is None else self.weight_binarizer(channels)
        if made is not None and not isinstance(made, WeightBinarizer):
            raise ValueError(f"`weight_binarizer` must make a WeightBinarizer, got {type(made).__name__}.")
        return made


def layer_factory(
    binary: Binary,
    input_binarizer: BinarizerFactory | None,
    weight_binarizer: BinarizerFactory | None,
    *,
    defaults: tuple[str | BinarizerFactory, str | BinarizerFactory] = ("SignEDE", "Libra"),
    pad_value: float = 0.0,
) -> LayerFactory:
    """Choose the binarizers of a network.

    Args:
        binary: False makes the float twin, whatever the other arguments are; "activations" leaves the weights real.
        input_binarizer: None takes the paper's own.
        weight_binarizer: None takes the paper's own.
        defaults: The paper's own binarizers of inputs and weights, by name or made.
        pad_value: See `LayerFactory`.

    Raises:
        ValueError: `binary` is none of the three.
    """
    if binary not in (True, False, "activations"):
        raise ValueError(f'`binary` must be true, false or "activations", got {binary!r}.')
    if not binary:
        return LayerFactory()
    inputs, weights = (binarizer_factory(name) if isinstance(name, str) else name for name in defaults)
    inputs = inputs if input_binarizer is None else input_binarizer
    weights = weights if weight_binarizer is None else weight_binarizer
    return LayerFactory(inputs, None if binary == "activations" else weights, pad_value)


class PadShortcut(nn.Module):
    """Parameter-free shortcut (option A): every `stride`-th pixel, and channels of zeros on both sides.

    Args:
        padding: Channels to add on each side.
        stride: Distance of the pixels that are taken.

    Example:
        >>> import torch
        >>> PadShortcut(padding=1, stride=2)(torch.arange(16.0).view(1, 1, 4, 4))[0, :, :, 0]
        tensor([[0., 0.],
                [0., 8.],
                [0., 0.]])

    References:
        He et al., Deep Residual Learning, CVPR 2016, section 3.3.
    """

    def __init__(self, padding: int, stride: int) -> None:
        super().__init__()
        self.padding, self.stride = padding, stride

    def forward(self, x: Tensor) -> Tensor:
        # Not a slice: with one, the gradient loses the channels_last format, and batch norm's backward its fast path.
        taken = F.avg_pool2d(x, 1, self.stride)
        return F.pad(taken, (0, 0, 0, 0, self.padding, self.padding))

    def extra_repr(self) -> str:
        return f"padding={self.padding}, stride={self.stride}"


def pad_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Make an option-A shortcut, the identity where shapes allow.

    Raises:
        ValueError: The channels that are added cannot be split evenly.
    """
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    padding, rest = divmod(out_channels - in_channels, 2)
    if rest or padding < 0:
        raise ValueError(f"A padded shortcut must add an even number of channels, got {in_channels} to {out_channels}.")
    return PadShortcut(padding, stride)


def conv_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Make an option-B shortcut (1x1 convolution and batch norm, both real), the identity where shapes allow."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class RepeatShortcut(nn.Module):
    """Parameter-free shortcut of ReActNet-A: a 2x2 average where the stride is 2, and every channel `repeats` times.

    Args:
        repeats: Copies of the channels, one block of all of them behind the other.
        stride: 1 or 2.

    Example:
        >>> import torch
        >>> RepeatShortcut(repeats=2, stride=2)(torch.arange(4.0).view(1, 1, 2, 2)).flatten().tolist()
        [1.5, 1.5]
    """

    def __init__(self, repeats: int, stride: int) -> None:
        super().__init__()
        self.repeats = repeats
        self.pool = halve(stride)

    def forward(self, x: Tensor) -> Tensor:
        # Not `repeat`: that loses the channels_last format.
        return torch.cat([self.pool(x)] * self.repeats, 1)

    def extra_repr(self) -> str:
        return f"repeats={self.repeats}"


def repeat_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Make ReActNet-A's shortcut, the identity where shapes allow.

    Raises:
        ValueError: `out_channels` is no multiple of `in_channels`.
    """
    repeats, rest = divmod(out_channels, in_channels)
    if rest or repeats < 1:
        raise ValueError(f"A repeated shortcut must multiply channels, got {in_channels} to {out_channels}.")
    return halve(stride) if repeats == 1 else RepeatShortcut(repeats, stride)


def pool_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Make Bi-Real Net's shortcut (2x2 average, real 1x1 convolution, batch norm), the identity where shapes allow.

    The last window of an odd side is averaged over what is there, so that the size is that of a 3x3 convolution.
    """
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        halve(stride), nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
    )


def halve(stride: int) -> nn.Module:
    """Make a 2x2 average with stride 2, or for stride 1 the identity.

    Raises:
        ValueError: Another stride.
    """
    if stride not in (1, 2):
        raise ValueError(f"`stride` must be 1 or 2, got {stride}.")
    return nn.Identity() if stride == 1 else nn.AvgPool2d(2, 2, ceil_mode=True)


def hardtanh(num_channels: int) -> nn.Module:
    """Make a Hardtanh in place, for any number of channels."""
    return Hardtanh(inplace=True)


class DoubleSkipBlock(nn.Module):
    """Two binary convolutions, each with its own skip (Bi-Real Net).

    `u = act(BN(conv1(x)) + shortcut(x))`, `v = act(BN(conv2(u)) + u)`.

    Args:
        in_channels: Channels of x.
        out_channels: Channels of u and v.
        stride: Stride of the first convolution and of the shortcut.
        layers: Makes the convolutions.
        shortcut: Makes the first skip.
        activation: Makes the activations.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        layers: LayerFactory,
        shortcut: Shortcut,
        activation: Activation = hardtanh,
    ) -> None:
        super().__init__()
        self.conv1 = layers.conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.act1 = activation(out_channels)
        self.conv2 = layers.conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.act2 = activation(out_channels)
        self.shortcut = shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        # In place is right here: batch norm's and the addition's backward do not look at their outputs, Hardtanh's
        # looks at its output only, and the next binarizer keeps that same tensor. Maxout is not in place.
        u: Tensor = self.act1(self.bn1(self.conv1(x)).add_(self.shortcut(x)))
        v: Tensor = self.act2(self.bn2(self.conv2(u)).add_(u))
        return v


class SingleSkipBlock(DoubleSkipBlock):
    """Two binary convolutions with one skip around both.

    `u = Hardtanh(BN(conv1(x)))`, `v = Hardtanh(BN(conv2(u)) + shortcut(x))`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        u: Tensor = self.act1(self.bn1(self.conv1(x)))
        v: Tensor = self.act2(self.bn2(self.conv2(u)).add_(self.shortcut(x)))
        return v
