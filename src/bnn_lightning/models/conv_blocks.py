"""The convolution modules of XNOR-Net, Bi-Real Net, ReActNet and Real-to-Binary, each with its skip, built alone.

A unit holds one binary convolution, `conv`, and its output is what follows that layer: distillation listens there.
"""

from typing import Any

from torch import Tensor, nn

from bnn_lightning.binarizers.base import BinarizerFactory
from bnn_lightning.binarizers.factory import binarizer_factory
from bnn_lightning.layers.activation import PReLU, RPReLU
from bnn_lightning.layers.attention import SqueezeExcite
from bnn_lightning.models.blocks import LayerFactory, Shortcut, layer_factory, pool_shortcut

# The paper's own, of inputs and of weights.
Binarizers = tuple[BinarizerFactory, BinarizerFactory]


class Unit(nn.Module):
    """A binary convolution and what belongs to it.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: 1 or 2.
        kernel_size: Kernel size of the convolution, odd.
        layers: Makes the convolution; None takes the paper's binarizers.
    """

    default_binarizers: Binarizers

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        kernel_size: int = 3,
        layers: LayerFactory | None = None,
    ) -> None:
        super().__init__()
        if layers is None:
            layers = layer_factory(True, None, None, defaults=self.default_binarizers)
        self.conv = layers.conv(in_channels, out_channels, kernel_size, stride)


class XNORUnit(Unit):
    """XNOR-Net's block without a skip: `conv(BN(x))`, with the sign's clipped identity and the scale mean |w|.

    The map K of input scales is not used: the paper finds it to matter far less than the scale of the weights.

    Args:
        in_channels ... **options: As `Unit` takes them.

    Example:
        >>> import torch
        >>> XNORUnit(16, 32, stride=2)(torch.randn(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])

    References:
        Rastegari et al., XNOR-Net, ECCV 2016: its block of an XNOR-Network.
    """

    default_binarizers = (binarizer_factory("SignSTE"), binarizer_factory("XNORScale"))

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, **options: Any) -> None:
        super().__init__(in_channels, out_channels, stride, **options)
        self.bn = nn.BatchNorm2d(in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        y: Tensor = self.conv(self.bn(x))
        return y


class BiRealUnit(Unit):
    """Bi-Real Net's unit: `BN(conv(x)) + shortcut(x)`, with ApproxSign and the magnitude-aware gradient.

    Args:
        in_channels ... **options: As `Unit` takes them.
        shortcut: Makes the skip; by default 2x2 average, real 1x1 convolution and batch norm, where the shape changes.

    Example:
        >>> import torch
        >>> BiRealUnit(16, 32, stride=2)(torch.randn(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])

    References:
        Liu et al., Bi-Real Net, ECCV 2018.
    """

    default_binarizers = (binarizer_factory("ApproxSign"), binarizer_factory("XNORScale", gradient="detached"))

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        shortcut: Shortcut = pool_shortcut,
        **options: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, stride, **options)
        self.bn = nn.BatchNorm2d(out_channels)
        self.shortcut = shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        y: Tensor = self.bn(self.conv(x)) + self.shortcut(x)
        return y


class ReActUnit(BiRealUnit):
    """ReActNet's unit on Bi-Real Net's: `RPReLU(BN(conv(x)) + shortcut(x))`, with RSign.

    ReActNet-A duplicates the 1x1 unit that doubles the channels and concatenates: two convolutions and batch norms, one
    RSign before and one RPReLU behind both. One convolution of twice the outputs with `shortcut=repeat_shortcut` is the
    same function.

    Args:
        in_channels ... **options: As `BiRealUnit` takes them.

    Example:
        >>> import torch
        >>> ReActUnit(16, 16)(torch.randn(1, 16, 8, 8)).shape
        torch.Size([1, 16, 8, 8])

    References:
        Liu et al., ReActNet, ECCV 2020.
    """

    default_binarizers = (binarizer_factory("RSign"), binarizer_factory("XNORScale", gradient="identity"))

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, **options: Any) -> None:
        super().__init__(in_channels, out_channels, stride, **options)
        self.act = RPReLU(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        y: Tensor = self.act(super().forward(x))
        return y


class RealToBinaryUnit(Unit):
    """Real-to-Binary's half block: `PReLU(gate(n) * conv(n)) + shortcut(x)` with `n = BN(x)`.

    The gate is a squeeze-and-excite one, computed from the real-valued input of the convolution; it takes the place of
    a scale.

    Args:
        in_channels ... **options: As `Unit` takes them.
        reduction: The gate's hidden layer has `in_channels / reduction` units.

    Example:
        >>> import torch
        >>> RealToBinaryUnit(16, 32, stride=2)(torch.randn(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])

    References:
        Martinez et al., Training Binary Neural Networks with Real-to-Binary Convolutions, ICLR 2020.
    """

    default_binarizers = (binarizer_factory("SignSTE"), binarizer_factory("WeightSign", clip=1.0))

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, *, reduction: int = 8, **options: Any
    ) -> None:
        super().__init__(in_channels, out_channels, stride, **options)
        self.bn = nn.BatchNorm2d(in_channels)
        self.gate = SqueezeExcite(in_channels, out_channels=out_channels, reduction=reduction, bias=False)
        self.act = PReLU(out_channels)
        self.shortcut = pool_shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        normalized = self.bn(x)
        y: Tensor = self.act(self.conv(normalized) * self.gate(normalized)) + self.shortcut(x)
        return y
