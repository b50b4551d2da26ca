"""Channel attention, and the blend that BNext computes it from."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bnn_lightning.functional.elementwise import spatial_mean
from bnn_lightning.utils.checks import check_integer


class ChannelBlend(nn.Module):
    """Blend two feature maps with a learnable weight of each channel: `scale x + (1 - scale) y`.

    Nothing here keeps `scale` in [0, 1]: `clip_channel_blends_` does, after the optimizer step.

    Args:
        num_channels: Channels of x and y.
        init: Initial weight of x.

    Example:
        >>> ChannelBlend(4, init=0.25)(torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)).unique()
        tensor([0.2500], grad_fn=<Unique2Backward0>)

    References:
        Guo et al., BNext, 2022: adaptive mix-to-binary attention, or information recoupling.
    """

    def __init__(self, num_channels: int, init: float = 0.5) -> None:
        super().__init__()
        check_integer("num_channels", num_channels, 1)
        self.scale = nn.Parameter(torch.full((num_channels,), init))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Map two (N, C, H, W) to one."""
        return y + self.scale.view(-1, 1, 1) * (x - y)

    def extra_repr(self) -> str:
        return f"{self.scale.numel()}"


class SqueezeExcite(nn.Module):
    """Compute a gate in (0, 1) for each channel: global average, 1x1 convolution, ReLU, 1x1 convolution, sigmoid.

    It returns the gate and does not apply it: what is averaged need not be what is gated.

    Args:
        channels: Channels of the input.
        out_channels: Channels of the gate; None takes those of the input.
        reduction: The hidden layer has `channels / reduction` units, rounded down, at least one.
        bias: Whether the two convolutions have one (BNext's have, Real-to-Binary's have not).
        conv: Makes the convolutions, called as `torch.nn.Conv2d` is.

    Raises:
        ValueError: `channels` or `reduction` is not positive.

    Example:
        >>> gate = SqueezeExcite(16)
        >>> gate(torch.randn(2, 16, 5, 5)).shape
        torch.Size([2, 16, 1, 1])

    References:
        Hu et al., Squeeze-and-Excitation Networks, CVPR 2018, equations 2 and 3; Martinez et al., Training Binary
        Neural Networks with Real-to-Binary Convolutions, ICLR 2020.
    """

    def __init__(
        self,
        channels: int,
        *,
        out_channels: int | None = None,
        reduction: int = 8,
        bias: bool = True,
        conv: Callable[..., nn.Module] = nn.Conv2d,
    ) -> None:
        super().__init__()
        for name, value in (("channels", channels), ("reduction", reduction)):
            if value < 1:
                raise ValueError(f"`{name}` must be positive, got {value}.")
        hidden = max(channels // reduction, 1)
        self.squeeze = conv(channels, hidden, 1, bias=bias)
        self.act = nn.ReLU(inplace=True)
        self.excite = conv(hidden, channels if out_channels is None else out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gate (N, out_channels, 1, 1) of a feature map (N, channels, H, W)."""
        gate: Tensor = self.excite(self.act(self.squeeze(spatial_mean(x))))
        return gate.sigmoid()
