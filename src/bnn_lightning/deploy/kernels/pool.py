"""Calls of the pooling kernels: maxima and averages of windows, sums and averages over the map, channels of zeros."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.deploy.kernels.abi import MOST_LINES
from bnn_lightning.deploy.kernels.call import Address, Count, Field, KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.layout import (
    BLOCK,
    IMAGES,
    Activation,
    Map,
    Pair,
    Shape,
    given,
    num_blocks,
    num_parts,
    placed,
)

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Pool2d:
    """Maxima or averages of windows, after a PReLU if asked for.

    Attributes:
        channels: Channels of the map.
        kernel_size: Height and width.
        stride: Stride of rows and columns.
        padding: Padding of rows and columns.
        average: Average, not the maximum.
        ceil_mode: Whether windows may reach beyond the map.
        before: Slope of a PReLU, (channels,), that comes first; None is none.
        count_padding: Whether averages are over the padding, too, and not only over what lies in the map.
        divisor: Number that sums are divided by in place of the pixels of a window; 0 is none.

    Example:
        >>> Pool2d(1, (2, 2), (2, 2), average=True).out_shape((1, 4, 5))
        (1, 2, 2)
    """

    channels: int
    kernel_size: Pair
    stride: Pair
    padding: Pair = (0, 0)
    average: bool = False
    ceil_mode: bool = False
    before: Array | None = None
    count_padding: bool = False
    divisor: int = 0

    def out_shape(self, shape: Shape) -> Shape:
        """Return the shape of the result for a map of this shape."""
        sizes = []
        for i in (0, 1):
            size, kernel, stride, pad = shape[1 + i], self.kernel_size[i], self.stride[i], self.padding[i]
            steps = size + 2 * pad - kernel
            out = (-(-steps // stride) if self.ceil_mode else steps // stride) + 1
            # The last window must begin in the map or before it.
            sizes.append(out - 1 if self.ceil_mode and (out - 1) * stride >= size + pad else out)
        return shape[0], sizes[0], sizes[1]

    @property
    def is_native(self) -> bool:
        """Whether kernels take the windows: those of maxima reach over a limited number of rows."""
        return self.average or self.kernel_size[0] <= MOST_LINES

    def windows(self, prefix: str) -> dict[str, Field]:
        """Return the fields of `struct windows`."""
        names = ("height", "width", "stride_y", "stride_x", "pad_y", "pad_x")
        values = (*self.kernel_size, *self.stride, *self.padding)
        return given(dict(zip(names, values, strict=True)), prefix)

    def call(self, constants: ConstantSection, x: Map, out: Map | None, *, node: int = 0) -> KernelCall:
        """Return the call for a dense map.

        Args:
            constants: Section that takes slopes.
            x: The map.
            out: Place of the result; None writes no floats.
            node: Number of the value.
        """
        _, height, width = self.out_shape(x.shape)
        fields: dict[str, Field | None] = {
            "images": IMAGES,
            "height": x.shape[1],
            "width": x.shape[2],
            "average": int(self.average) + int(self.average and self.count_padding),
            "divisor": self.divisor,
            "x": x.address,
            "before": placed(constants, self.before),
        }
        after = Activation(self.channels).fields(constants, out, height, width)
        return KernelCall("pool", {**given(fields), **self.windows("windows."), **after}, node)


def sums_size(shape: Shape) -> int:
    """Return the bytes of an image's sums over the parts of a map: (parts, channels in whole blocks) floats.

    Example:
        >>> sums_size((3, 8, 8))
        128
    """
    return 4 * num_parts(shape[1] * shape[2]) * num_blocks(shape[0]) * BLOCK


def sum_parts(constants: ConstantSection, x: Map, before: Array | None, sums: Address, *, node: int = 0) -> KernelCall:
    """Return the call that sums a dense map over its parts.

    Args:
        constants: Section that takes the slopes.
        x: The map.
        before: Slope of a PReLU, (channels,), that comes first.
        sums: Place of the sums, `sums_size` bytes an image.
        node: Number of the value.
    """
    channels, height, width = x.shape
    fields: dict[str, Field | None] = {
        "images": IMAGES,
        "pixels": height * width,
        "channels": channels,
        "sums_channels": num_blocks(channels) * BLOCK,
        "x": x.address,
        "before": placed(constants, before),
        "sums": sums,
    }
    return KernelCall("sum", given(fields), node)


def average_parts(
    shape: Shape, sums: Address, mean: Address, *, factor: float | None = None, node: int = 0
) -> KernelCall:
    """Return the call that makes averages, (N, channels), of the sums over the parts of a map.

    Args:
        shape: Shape of the map.
        sums: Its sums.
        mean: Place of the averages.
        factor: Number that the sums are multiplied by; None makes averages.
        node: Number of the value.
    """
    channels, height, width = shape
    fields: dict[str, Field | None] = {
        "images": IMAGES,
        "parts": num_parts(height * width),
        "channels": channels,
        "sums_channels": num_blocks(channels) * BLOCK,
        "sums": sums,
        "mean": mean,
        "factor": float(np.float32(1 / (height * width) if factor is None else factor)),
    }
    return KernelCall("average", given(fields), node)


def pad_channels(out: Map, first: int, inner: int, *, node: int = 0) -> KernelCall:
    """Return the call that writes zeros into the channels of a map around `inner` ones that begin with `first`."""
    channels, height, width = out.shape
    fields: dict[str, Field | None] = {
        "pixels": Count(0, height * width),
        "channels": channels,
        "first": first,
        "inner": inner,
        "out": out.address,
    }
    return KernelCall("pad", given(fields), node)
