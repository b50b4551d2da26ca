"""Layouts of maps, weights and signs as kernels read them, and what follows a sum; numpy alone.

A word (uint32) holds the signs of 32 channels, the first in its lowest bit; 1 is +1, and bits that are left over are 0.
A block is 16 output channels side by side. Maps are (N, H, W, C), dense.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.deploy.kernels.abi import AFTER, PART
from bnn_lightning.deploy.kernels.call import Address, Count, Field
from bnn_lightning.deploy.kernels.constants import ConstantSection

Array = NDArray[Any]
Pair = tuple[int, int]
Shape = tuple[int, int, int]  # channels, height and width of a map

WORD_BITS, BLOCK, FLOAT = 32, 16, 4
IMAGES = Count(0, 1)


def num_words(channels: int) -> int:
    """Return the number of words that hold `channels` signs."""
    return -(-channels // WORD_BITS)


def num_blocks(channels: int) -> int:
    """Return the number of blocks that hold `channels` output channels."""
    return -(-channels // BLOCK)


def num_parts(pixels: int) -> int:
    """Return the number of parts that a map of so many pixels is summed in."""
    return -(-pixels // PART)


def out_size(size: int, kernel: int, stride: int, dilation: int = 1) -> int:
    """Return the number of windows along a dimension of `size` padded inputs."""
    return (size - dilation * (kernel - 1) - 1) // stride + 1


def spread(values: Array, *, groups: int = 1, fill: float = 0.0) -> Array:
    """Lay values of output channels out as kernels read them: float32, each group filled up to whole blocks.

    Args:
        values: Shape (..., out_channels).
        groups: Divides out_channels.
        fill: Value of the channels that do not exist.

    Returns:
        Shape (..., groups * blocks * 16).

    Example:
        >>> spread(np.array([1.0, 2.0]), groups=2).nonzero()[0]
        array([ 0, 16])
    """
    split = np.asarray(values, np.float32).reshape(*values.shape[:-1], groups, -1)
    channels = split.shape[-1]
    result = np.full((*split.shape[:-1], num_blocks(channels) * BLOCK), fill, np.float32)
    result[..., :channels] = split
    return result.reshape(*values.shape[:-1], -1)


def placed(constants: ConstantSection, values: Array | None) -> Address | None:
    """Return the address of values of output channels, laid out by `spread`; None for none."""
    return None if values is None else constants.add(spread(values))


def blocked(rows: Array) -> Array:
    """Lay weights out as kernels read them.

    Args:
        rows: Shape (out_channels, factors).

    Returns:
        Shape (blocks, factors, 16); output channels beyond the last one are 0.

    Example:
        >>> blocked(np.ones((3, 5))).shape
        (1, 5, 16)
    """
    padded = np.zeros((num_blocks(len(rows)) * BLOCK, rows.shape[1]), rows.dtype)
    padded[: len(rows)] = rows
    return np.ascontiguousarray(padded.reshape(-1, BLOCK, rows.shape[1]).transpose(0, 2, 1))


def packed(bits: Array) -> Array:
    """Pack bools, (..., C), to words, uint32 (..., ceil(C / 32)).

    Example:
        >>> packed(np.array([True, False, True]))
        array([5], dtype=uint32)
    """
    words = num_words(bits.shape[-1])
    if bits.shape[-1] == words * WORD_BITS:
        return np.packbits(bits, axis=-1, bitorder="little").view("<u4")
    padded = np.zeros((*bits.shape[:-1], words * WORD_BITS), bool)
    padded[..., : bits.shape[-1]] = bits
    return np.packbits(padded, axis=-1, bitorder="little").view("<u4")


@dataclass(frozen=True)
class Map:
    """A map of N images in memory, float32 with channels side by side unless it says something else.

    Attributes:
        address: First byte.
        shape: Channels, height and width.
        pitch: Elements from a pixel to the next one; 0 is the channels.
        planar: Whether it is (N, C, H, W).
        in_bytes: Whether it is uint8, in 255ths.
    """

    address: Address
    shape: Shape
    pitch: int = 0
    planar: bool = False
    in_bytes: bool = False

    @property
    def strides(self) -> tuple[int, int, int, int]:
        """Elements from one image, channel, row and column to the next."""
        channels, height, width = self.shape
        if self.planar:
            return channels * height * width, height * width, width, 1
        pitch = self.pitch or channels
        return pitch * height * width, 1, pitch * width, pitch

    def part(self, first: int, channels: int) -> "Map":
        """Return some channels of it, from `first` on."""
        _, height, width = self.shape
        pitch = self.pitch or self.shape[0]
        return replace(self, address=self.address + FLOAT * first, shape=(channels, height, width), pitch=pitch)


def given(fields: dict[str, "Field | None"], prefix: str = "") -> dict[str, Field]:
    """Return the fields of a call that are not zero, with a prefix of their names.

    Example:
        >>> given({"x": 0, "y": 2, "z": None}, "after.")
        {'after.y': 2}
    """
    return {prefix + name: value for name, value in fields.items() if value is not None and value != 0}


@dataclass(frozen=True)
class Activation:
    """Last step of most kernels: PReLU, a shift, clamp; each may be missing.

    Attributes:
        channels: Channels of the map.
        slope: Slope of PReLU, (channels,); zeros make ReLU.
        shift: Shape (channels,).
        low: Lower bound.
        high: Upper bound.
    """

    channels: int
    slope: Array | None = None
    shift: Array | None = None
    low: float = -math.inf
    high: float = math.inf

    def fields(
        self, constants: ConstantSection, out: Map | None, height: int, width: int, prefix: str = "after."
    ) -> dict[str, Field]:
        """Return the fields of `struct after`.

        Args:
            constants: Section that takes its values.
            out: Place of the result; None writes no floats.
            height: Rows of the result.
            width: Columns of the result.
            prefix: Prefix of the names.
        """
        fields: dict[str, Field | None] = {
            "height": height,
            "width": width,
            "channels": self.channels,
            "out_channels": self.channels if out is None else out.pitch or out.shape[0],
            **{name: placed(constants, getattr(self, name)) for name in AFTER},
            "low": self.low,
            "high": self.high,
            "out": None if out is None else out.address,
        }
        return given(fields, prefix)
