"""Anti-aliased pooling (blur pooling): nearly invariant to shifts of the image."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BINOMIAL = (1.0, 2.0, 1.0)


class BlurPool2d(nn.Module):
    """Blur with the fixed 3x3 binomial filter and take every second pixel: behind maxima, an antialiased max-pooling.

    The filter is a buffer of each channel, as published files hold it.

    Args:
        num_channels: Channels of the input.
        padding: Zeros above, below, on the left and on the right.

    Example:
        >>> BlurPool2d(1)(torch.ones(1, 1, 4, 4))[0, 0]
        tensor([[0.5625, 0.7500],
                [0.7500, 1.0000]])

    References:
        Zhang, Making Convolutional Networks Shift-Invariant Again, ICML 2019.
    """

    weight: Tensor

    def __init__(self, num_channels: int, padding: Sequence[int] = (1, 1, 1, 1)) -> None:
        super().__init__()
        row = torch.tensor(_BINOMIAL) / sum(_BINOMIAL)
        self.register_buffer("weight", torch.outer(row, row).expand(num_channels, 1, 3, 3).clone())
        top, bottom, left, right = padding
        self.margins = [left, right, top, bottom]

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H', W'), every second window of the padded map."""
        left, right, top, bottom = self.margins
        channels = self.weight.shape[0]
        if (left, top) == (right, bottom):
            return F.conv2d(x, self.weight, None, 2, (top, left), groups=channels)
        return F.conv2d(F.pad(x, self.margins), self.weight, None, 2, groups=channels)

    def extra_repr(self) -> str:
        left, right, top, bottom = self.margins
        return f"{self.weight.shape[0]}, padding={(top, bottom, left, right)}"
