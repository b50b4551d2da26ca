"""Channel attention."""

from collections.abc import Callable

from torch import Tensor, nn


class SqueezeExcite(nn.Module):
    """Compute a gate in (0, 1) for each channel: global average, 1x1 convolution, ReLU, 1x1 convolution, sigmoid.

    It returns the gate and does not apply it: what is averaged need not be what is gated.

    Args:
        channels: Channels of the input and of the gate.
        reduction: The hidden layer has `channels / reduction` units, rounded down, at least one.
        bias: Whether the two convolutions have one (BNext's have, Real-to-Binary's have not).
        conv: Makes the convolutions, called as `torch.nn.Conv2d` is.

    Raises:
        ValueError: `channels` or `reduction` is not positive.

    Example:
        >>> import torch
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
        self.excite = conv(hidden, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gate (N, channels, 1, 1) of a feature map (N, channels, H, W)."""
        gate: Tensor = self.excite(self.act(self.squeeze(x.mean((2, 3), keepdim=True))))
        return gate.sigmoid()
