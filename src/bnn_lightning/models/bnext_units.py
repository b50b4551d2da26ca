"""Modules of BNext networks: the binary convolution module, units of one module and a shortcut, real layers."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from bnn_lightning.functional.elementwise import prelu, spatial_mean, spatial_mean_of_halves
from bnn_lightning.functional.recompute import Recomputable, call, recomputable
from bnn_lightning.layers.activation import PReLU
from bnn_lightning.layers.attention import ChannelBlend, SqueezeExcite
from bnn_lightning.layers.quantized import QuantConv2d, QuantLinear
from bnn_lightning.models.blocks import LayerFactory
from bnn_lightning.utils.checks import check_integer

_conv_without_bias = partial(nn.Conv2d, bias=False)


@dataclass(frozen=True)
class RealLayers:
    """Makes the layers of a BNext that are not binary.

    Args:
        stem: Called as `torch.nn.Conv2d`.
        gate: The convolutions of squeeze-and-excite.
        shortcut: The 1x1 convolutions of BNext-18.
        linear: Called as `torch.nn.Linear`.
    """

    stem: Callable[..., nn.Module] = nn.Conv2d
    gate: Callable[..., nn.Module] = nn.Conv2d
    shortcut: Callable[..., nn.Module] = _conv_without_bias
    linear: Callable[..., nn.Linear] = nn.Linear


def real_layers(quant: bool, se_bits: int, se_input_bits: int) -> RealLayers:
    """Return torch's layers, or with `quant` those that train with the rounding of 8 bits, `se_bits` in the gates.

    Args:
        quant: Whether to quantise.
        se_bits: Bits of the weights of squeeze-and-excite.
        se_input_bits: Bits of their inputs.

    Raises:
        ValueError: A number of bits that is none.

    References:
        Guo et al., BNext, 2022: stem and classifier at 8 bits, squeeze-and-excite at 8 or 4. The images stay as they
        are, and the 1x1 convolutions gain a bias.
    """
    check_integer("se_bits", se_bits, 1, 16)
    if not quant:
        return RealLayers()
    return RealLayers(
        stem=partial(QuantConv2d, weight_bits=8, input_bits=None),
        gate=partial(QuantConv2d, weight_bits=se_bits, input_bits=se_input_bits),
        shortcut=partial(QuantConv2d, weight_bits=8, input_bits=8, bias=True),
        linear=partial(QuantLinear, weight_bits=8, input_bits=8),
    )


class BNextConv(nn.Module):
    """BNext's binary convolution module: its output is gated by a blend of its input and output.

    `u = PReLU(BN(conv(x)))`, `v = u * SE(mix r + (1 - mix) u)`, with a real r of the shape of u: x itself, average-
    pooled where the convolution has a stride, unless another is given. The blend is taken of the averages over the map
    that squeeze-and-excite starts with: the same numbers, for a thousandth of the work.

    Args:
        in_channels: Channels of x.
        out_channels: Channels of u, r and v.
        kernel_size: Odd.
        stride: 1 or 2.
        layers: Makes the convolution.
        real: Makes the gate's convolutions.
        recoupling: False leaves blend and gate out: `v = u`.

    Example:
        >>> import torch
        >>> from bnn_lightning.models.blocks import layer_factory
        >>> layers = layer_factory(True, None, None, defaults=("RSign", "TemperatureSign"))
        >>> BNextConv(16, 16, 3, 2, layers=layers)(torch.randn(2, 16, 8, 8)).shape
        torch.Size([2, 16, 4, 4])

    References:
        Guo et al., Join the High Accuracy Club on ImageNet with A Binary Neural Network Ticket, 2022.
    """

    mix: ChannelBlend | None
    gate: SqueezeExcite | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        layers: LayerFactory,
        real: RealLayers | None = None,
        recoupling: bool = True,
    ) -> None:
        super().__init__()
        real = RealLayers() if real is None else real
        self.conv = layers.conv(in_channels, out_channels, kernel_size, stride)
        self.norm = nn.BatchNorm2d(out_channels)
        self.act = PReLU(out_channels)
        self.mix = ChannelBlend(out_channels) if recoupling else None
        self.gate = SqueezeExcite(out_channels, conv=real.gate) if recoupling else None
        self.stride = stride

    def forward(self, x: Tensor, real: Tensor | None = None, *, again: bool = False) -> Tensor | Recomputable:
        """Map (N, in_channels, H, W), and r where it is not x, to (N, out_channels, H / stride, W / stride).

        With `again`, how to compute it again from the output of batch norm and the gate comes with it. The unit asks
        so, and not by another method: hooks and graphs see only modules that are called.
        """
        v = self._gated(x, real)
        return v if again else v.value

    def _gated(self, x: Tensor, real: Tensor | None) -> Recomputable:
        normalized = self.norm(self.conv(x))
        u = recomputable(prelu, normalized, self.act.weight, value=self.act(normalized))
        if self.mix is None or self.gate is None:
            return u
        if real is None and self.stride == 2:  # of the pooled input the average alone is used
            mean = spatial_mean_of_halves(x)
        else:
            mean = spatial_mean(x if real is None else real)
        return recomputable(operator.mul, u, self.gate(self.mix(mean, spatial_mean(u.value))))


class BNextUnit(nn.Module):
    """One binary convolution module and its shortcut: FFN, or with `multiply` ELM-Attention.

    With v of `BNextConv`: `BN(v) + r` with the shortcut r of x, or `BN(v * r) + r` with r of PReLU(x).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: 3 or 1.
        stride: 1 or 2.
        shortcut: Takes the input to the shape of the output.
        multiply: Whether the shortcut multiplies, too (element-wise attention).
        mix_shortcut: Blend r, as BNext-18 does with every shortcut, and not what `shortcut` makes of x.
        recoupling: See `BNextConv`; without it, FFN has no second batch norm.
        **options: As `BNextConv` takes them.
    """

    act: PReLU | None
    norm: nn.BatchNorm2d | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        shortcut: nn.Module,
        multiply: bool,
        mix_shortcut: bool = False,
        recoupling: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        self.mix_shortcut = mix_shortcut
        self.conv = BNextConv(in_channels, out_channels, kernel_size, stride, recoupling=recoupling, **options)
        self.shortcut = shortcut
        self.act = PReLU(in_channels) if multiply else None
        self.norm = nn.BatchNorm2d(out_channels) if multiply or recoupling else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        # Autograd keeps the inputs of v, and of PReLU before the shortcut, not the results: half of the memory.
        if self.act is None:
            r: Tensor = self.shortcut(x)
            v: Recomputable = self.conv(x, r, again=True)
        else:
            activated = recomputable(prelu, x, self.act.weight, value=self.act(x))
            r = call(self.shortcut, activated)
            v = self.conv(x, r if self.mix_shortcut else None, again=True)
            v = recomputable(operator.mul, v, activated if r is activated.value else r)
        return r + (v.value if self.norm is None else call(self.norm, v))
