"""Pooling and averages over the map on the project's own kernels; see `deploy.real`."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.deploy.frontend.fresh import floats
from bnn_lightning.deploy.kernels.abi import Averaging, Pooling, Summing, Windows
from bnn_lightning.deploy.kernels.layout import (
    Activation,
    channels_last,
    kernel_for,
    new_map,
    pointer,
    prelu,
    sums_shape,
)
from bnn_lightning.functional.pack import spread

MOST_LINES = 16  # of epilogue.h


class Pool2d(nn.Module):
    """Maxima or averages of windows, after a PReLU if asked for.

    Args:
        channels: Of the map.
        kernel_size: Height and width.
        stride: Of rows and columns.
        padding: Of rows and columns; of maxima alone.
        average: Average, over what lies in the map.
        ceil_mode: Whether windows may reach beyond the map.
        before: Slope of a PReLU, (channels,), that comes first; None is none.

    Example:
        >>> import torch
        >>> Pool2d(1, (2, 2), (2, 2), average=True)(torch.arange(4.0).view(1, 1, 2, 2)).item()
        1.5
    """

    before: Tensor | None

    def __init__(
        self,
        channels: int,
        kernel_size: tuple[int, int],
        stride: tuple[int, int],
        *,
        padding: tuple[int, int] = (0, 0),
        average: bool,
        ceil_mode: bool = False,
        before: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.average, self.ceil_mode = average, ceil_mode
        self.activation = Activation(channels)
        self.register_buffer("before", None if before is None else spread(before.detach().float()))

    def out_shape(self, shape: Sequence[int]) -> tuple[int, int, int, int]:
        """Return the shape of the result for an input of this shape."""
        sizes = []
        for i in (0, 1):
            size, kernel, stride, pad = shape[2 + i], self.kernel_size[i], self.stride[i], self.padding[i]
            steps = size + 2 * pad - kernel
            out = (-(-steps // stride) if self.ceil_mode else steps // stride) + 1
            # The last window must begin in the map or before it.
            sizes.append(out - 1 if self.ceil_mode and (out - 1) * stride >= size + pad else out)
        return shape[0], shape[1], sizes[0], sizes[1]

    @property
    def is_native(self) -> bool:
        """Whether kernels take the windows: those of maxima reach over a limited number of rows."""
        return self.average or self.kernel_size[0] <= MOST_LINES

    def windows(self) -> Windows:
        """Return the windows as kernels take them."""
        return Windows(*self.kernel_size, *self.stride, *self.padding)

    def job(self, x: Tensor, out: Tensor | None) -> Pooling:
        """Return what the kernel is given; both in the channels_last format."""
        _, _, out_height, out_width = self.out_shape(x.shape)
        return Pooling(
            images=x.shape[0],
            height=x.shape[2],
            width=x.shape[3],
            windows=self.windows(),
            average=int(self.average),
            x=x.data_ptr(),
            before=pointer(self.before),
            after=self.activation.after(out, out_height, out_width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, channels, H', W')."""
        kernel = kernel_for(x) if self.is_native else None
        if kernel is None:
            x = prelu(x, self.before)
            if self.average:
                return F.avg_pool2d(x, self.kernel_size, self.stride, ceil_mode=self.ceil_mode)
            return F.max_pool2d(x, self.kernel_size, self.stride, self.padding, ceil_mode=self.ceil_mode)
        x = channels_last(x)
        out = new_map(*self.out_shape(x.shape))
        kernel.run("pool", self.job(x, out))
        return out


class ChannelMean(nn.Module):
    """The average of each channel over the map, after a PReLU if asked for: (N, C, H, W) to (N, C).

    Args:
        channels: Of the map.
        before: Slope of a PReLU, (channels,), that comes first.

    Example:
        >>> import torch
        >>> ChannelMean(1, before=torch.zeros(1))(torch.tensor([-1.0, 3.0]).view(1, 1, 1, 2))
        tensor([[1.5000]])
    """

    before: Tensor | None

    def __init__(self, channels: int, *, before: Tensor | None = None) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("before", None if before is None else spread(before.detach().float()))

    def summing(self, x: Tensor, sums: Tensor) -> Summing:
        """Return what the kernel `sum` is given; `sums` has the shape that `sums_shape` gives."""
        return Summing(
            images=x.shape[0],
            pixels=x.shape[2] * x.shape[3],
            channels=self.channels,
            sums_channels=sums.shape[2],
            x=x.data_ptr(),
            before=pointer(self.before),
            sums=sums.data_ptr(),
        )

    def averaging(self, sums: Tensor, out: Tensor, pixels: int) -> Averaging:
        """Return what the kernel `average` is given: sums over parts of a map of so many pixels."""
        return Averaging(
            images=sums.shape[0],
            parts=sums.shape[1],
            channels=self.channels,
            sums_channels=sums.shape[2],
            sums=sums.data_ptr(),
            mean=out.data_ptr(),
            factor=1 / pixels,
        )

    def forward(self, x: Tensor) -> Tensor:
        kernel = kernel_for(x)
        if kernel is None:
            return prelu(x, self.before).mean((2, 3))
        x = channels_last(x)
        sums, out = floats(*sums_shape(x.shape)), floats(x.shape[0], self.channels)
        kernel.run("sum", self.summing(x, sums))
        kernel.run("average", self.averaging(sums, out, x.shape[2] * x.shape[3]))
        return out
