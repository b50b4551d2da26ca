"""What the layers on the real-valued kernels share: layouts, and what follows a sum."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.deploy.frontend.fresh import floats, strided
from bnn_lightning.deploy.kernels.abi import PART, After
from bnn_lightning.deploy.kernels.library import Kernel, current_kernel
from bnn_lightning.functional.pack import BLOCK, num_blocks, spread


def blocked(rows: Tensor) -> Tensor:
    """Lay weights out as kernels read them.

    Args:
        rows: Shape (out_channels, factors).

    Returns:
        Shape (blocks, factors, 16); output channels beyond the last one are 0.

    Example:
        >>> blocked(torch.ones(3, 5)).shape
        torch.Size([1, 5, 16])
    """
    padded = F.pad(rows, (0, 0, 0, num_blocks(rows.shape[0]) * BLOCK - rows.shape[0]))
    return torch.unflatten(padded, 0, (-1, BLOCK)).transpose(1, 2).contiguous()


def unblocked(weight: Tensor, out_channels: int) -> Tensor:
    """Undo `blocked`: (out_channels, factors)."""
    return weight.transpose(1, 2).flatten(0, 1)[:out_channels]


def kernel_for(*tensors: Tensor | None) -> Kernel | None:
    """Return the kernel that computes with these, None for torch: kernels take float32 on the CPU."""
    given = [tensor for tensor in tensors if tensor is not None]
    plain = all(tensor.dtype == torch.float32 and tensor.is_cpu for tensor in given)
    return current_kernel() if plain else None


def channels_last(x: Tensor) -> Tensor:
    """Return a map whose channels lie side by side, and its rows and images without gaps."""
    _, channels, height, width = x.shape
    dense = (height * width * channels, 1, width * channels, channels)
    fits = all(x.shape[i] == 1 or x.stride(i) == dense[i] for i in range(4))
    return x if fits else strided(x.shape, dense, x.dtype).copy_(x)


def new_map(number: int, channels: int, height: int, width: int) -> Tensor:
    """Return an empty (N, C, H, W) in the channels_last format."""
    return floats(number, height, width, channels).permute(0, 3, 1, 2)


def pointer(tensor: Tensor | None) -> int | None:
    """Return a tensor's address, None for none."""
    return None if tensor is None else tensor.data_ptr()


class Activation(nn.Module):
    """What kernels do last: PReLU, a shift, clamp; each may be missing.

    Args:
        channels: Of the map.
        slope: Of PReLU, (channels,); zeros make ReLU.
        shift: Shape (channels,).
        low: Lower bound.
        high: Upper bound.
    """

    slope: Tensor | None
    shift: Tensor | None

    def __init__(
        self,
        channels: int,
        *,
        slope: Tensor | None = None,
        shift: Tensor | None = None,
        low: float | None = None,
        high: float | None = None,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.low, self.high = -math.inf if low is None else low, math.inf if high is None else high
        self.register_buffer("slope", None if slope is None else spread(slope.float()))
        self.register_buffer("shift", None if shift is None else spread(shift.float()))

    def after(self, out: Tensor | None, height: int, width: int) -> After:
        """Return the kernel's structure, for a result that is written to `out`, (N, C, H, W)."""
        return After(
            height=height,
            width=width,
            channels=self.channels,
            out_channels=self.channels if out is None or out.dim() < 4 else out.stride(3),
            slope=pointer(self.slope),
            shift=pointer(self.shift),
            low=self.low,
            high=self.high,
            out=pointer(out),
        )

    def forward(self, t: Tensor) -> Tensor:
        """Compute it with torch for (N, C, ...)."""
        view = (-1, *[1] * (t.dim() - 2))
        if self.slope is not None:
            t = torch.where(t > 0, t, t * self.slope[: self.channels].view(view))
        if self.shift is not None:
            t = t + self.shift[: self.channels].view(view)
        return t if self.low == -math.inf and self.high == math.inf else t.clamp(self.low, self.high)


def sums_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the shape, (N, parts, C in whole blocks), of the sums over the parts of a map (N, C, H, W)."""
    return shape[0], -(-shape[2] * shape[3] // PART), num_blocks(shape[1]) * BLOCK


def prelu(x: Tensor, slope: Tensor | None) -> Tensor:
    """Apply PReLU to (N, C, H, W), with slopes that are filled up to whole blocks; None is the identity."""
    return x if slope is None else torch.where(x > 0, x, x * slope[: x.shape[1]].to(x.dtype).view(-1, 1, 1))
