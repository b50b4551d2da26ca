"""PReLU, Hardtanh, and activations with learnable shifts or slopes."""

import torch
from torch import Tensor, nn

from bnn_lightning.functional.elementwise import hardtanh_, maxout, prelu
from bnn_lightning.utils.checks import check_integer


class LearnableBias(nn.Module):
    """Add a learnable value to each channel.

    Args:
        num_channels: Channels of the input, its dimension 1.

    Example:
        >>> LearnableBias(4)(torch.ones(1, 4, 2, 2)).shape
        torch.Size([1, 4, 2, 2])
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        check_integer("num_channels", num_channels, 1)
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, ...) to the same shape."""
        return x + self.bias.view(-1, *[1] * (x.dim() - 2))

    def extra_repr(self) -> str:
        return f"{self.bias.numel()}"


class PReLU(nn.PReLU):
    """torch's PReLU with `functional.prelu`, which is several times faster backwards on a CPU: same values, same state.

    Example:
        >>> PReLU(2)(torch.tensor([[-1.0, 4.0]]))
        tensor([[-0.2500,  4.0000]], grad_fn=<_PReLUBackward>)
    """

    def forward(self, input: Tensor) -> Tensor:
        return prelu(input, self.weight)


class Hardtanh(nn.Hardtanh):
    """torch's Hardtanh; in place it keeps no copy of its input for the backward pass: same values and gradients.

    Example:
        >>> Hardtanh(inplace=True)(torch.tensor([-2.0, 0.5]))
        tensor([-1.0000,  0.5000])
    """

    def forward(self, input: Tensor) -> Tensor:
        return hardtanh_(input, self.min_val, self.max_val) if self.inplace else super().forward(input)


class RPReLU(nn.Module):
    """A PReLU with a learnable shift of each channel before and after it: `PReLU(x + shift_in) + shift_out`.

    ReActNet writes `x - gamma` and `+ zeta`: `shift_in` is -gamma, `shift_out` zeta. Published files hold the shifts.

    Args:
        num_channels: Channels of the input, its dimension 1.
        init: Initial slope where the shifted input is negative.

    Example:
        >>> activation = RPReLU(1)
        >>> _ = torch.nn.init.constant_(activation.shift_in.bias, -1.0)
        >>> _ = torch.nn.init.constant_(activation.shift_out.bias, 0.5)
        >>> activation(torch.tensor([[-1.0], [3.0]])).flatten().tolist()
        [0.0, 2.5]

    References:
        Liu et al., ReActNet, ECCV 2020: RPReLU.
    """

    def __init__(self, num_channels: int, init: float = 0.25) -> None:
        super().__init__()
        self.shift_in = LearnableBias(num_channels)
        self.prelu = PReLU(num_channels, init)
        self.shift_out = LearnableBias(num_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, ...) to the same shape."""
        y: Tensor = self.shift_out(self.prelu(self.shift_in(x)))
        return y


class Maxout(nn.Module):
    """Two learnable slopes of each channel, `positive_slope` and `negative_slope`: AdaBin's nonlinearity.

    Args:
        num_channels: Channels of the input, its dimension 1.
        positive: Initial slope of positive values.
        negative: Initial slope of negative values.

    Example:
        >>> Maxout(1)(torch.tensor([[-2.0], [2.0]])).flatten().tolist()
        [-0.5, 2.0]

    References:
        Tu et al., AdaBin, ECCV 2022.
    """

    def __init__(self, num_channels: int, positive: float = 1.0, negative: float = 0.25) -> None:
        super().__init__()
        check_integer("num_channels", num_channels, 1)
        self.positive_slope = nn.Parameter(torch.full((num_channels,), positive))
        self.negative_slope = nn.Parameter(torch.full((num_channels,), negative))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, ...) to the same shape."""
        return maxout(x, self.positive_slope, self.negative_slope)

    def extra_repr(self) -> str:
        return f"{self.positive_slope.numel()}"
