"""Calls of convolutions of images in bytes with weights in int8, whose sums are whole numbers: the same everywhere."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.deploy.kernels.call import Field
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.conv2d import Conv2d
from bnn_lightning.deploy.kernels.layout import Map, Shape, blocked, out_size, spread

Array = NDArray[Any]
_WORD = 4  # bytes


@dataclass(frozen=True, eq=False)
class Conv2dInt8(Conv2d):
    """`bias + scale * sum of weight * (pixel - around)` over what lies in the image, pixels in 255ths.

    PReLU, shift, clamp and maxima may follow.

    Attributes:
        scale: Shape (out_channels,).
        around: Shape (in_channels,), in 255ths: what pixels are compared with, and what lies around the image.
        constant: Number of the weights among the constants of the graph; None where they are none.
    """

    scale: Array | None = None
    around: Array | None = None
    constant: int | None = None

    def reads(self, x: Map) -> bool:
        """Whether the kernel takes a map as it lies in memory: it takes all."""
        return True

    @property
    def _room(self) -> int:
        return 1 << 15

    @property
    def _size(self) -> int:
        return 1

    def _copies(self, x: Map) -> bool:
        return True

    def _constants(self, constants: ConstantSection, shape: Shape) -> dict[str, Field | None]:
        assert self.scale is not None
        words = self.weight
        # A word is four taps side by side; where these are dilated it holds one.
        tail = [(0, 0)] * 3
        if self.dilation[1] == 1:
            words = np.pad(words, [*tail, (0, -words.shape[3] % _WORD)])
        else:
            words = np.pad(words[..., None], [*tail, (0, 0), (0, _WORD - 1)])
        rows = words.reshape(len(words), -1, _WORD)
        packed = np.stack([blocked(rows[..., i]) for i in range(_WORD)], -1)  # (blocks, words, BLOCK, 4)
        bias, starts = self._border(shape)
        return {
            "whole": 1,
            "factors": packed.shape[1],
            # Dilated taps are laid out otherwise than a file stores weights.
            "weight": constants.add(packed, of=self.constant if self.dilation[1] == 1 else None, layout="quads"),
            "scale": constants.add(spread(self.scale)),
            "bias": constants.add(bias),
            "bias_y": constants.add(starts[0]),
            "bias_x": constants.add(starts[1]),
        }

    def _border(self, shape: Shape) -> tuple[Array, list[Array]]:
        """Return the biases of all kinds of windows, and where those of each row and column begin."""
        assert self.scale is not None
        assert self.around is not None
        kinds, places = [], []
        for i, size in enumerate(shape[1:]):
            fixed = (self.kernel_size[i], self.stride[i], self.padding[i], self.dilation[i])
            masks, inverse = np.unique(inside_of(size, *fixed), axis=0, return_inverse=True)
            kinds.append(masks)
            places.append(inverse.reshape(-1))
        offset = border_bias(self.weight, self.scale, self.around, self.bias, kinds[0], kinds[1])
        bias = spread(np.moveaxis(offset, 0, -1))
        steps = (bias.shape[1] * bias.shape[2], bias.shape[2])
        return bias, [(place * step).astype(np.int32) for place, step in zip(places, steps, strict=True)]

    def _offsets(self, x: Map, band: int) -> Array:
        """Return how many bytes each word of a window lies from its beginning in a band."""
        window, columns = self._reach(self.map_shape(x.shape)[2])
        rows = (band - 1) * self.stride[0] + window
        dilated = self.dilation[1] > 1
        step = self.dilation[1] if dilated else _WORD
        far = np.arange(self.kernel_size[1] if dilated else -(-self.kernel_size[1] // _WORD)) * step
        lines = np.arange(self.kernel_size[0]) * self.dilation[0] * columns
        planes = np.arange(self.in_channels) * rows * columns
        return (planes[:, None, None] + lines[:, None] + far).ravel().astype(np.int32)


def inside_of(size: int, kernel: int, stride: int, padding: int, dilation: int) -> Array:
    """Return which taps of each window lie in the image: (windows, kernel), 1 and 0 in float64."""
    windows = np.arange(out_size(size + 2 * padding, kernel, stride, dilation)) * stride - padding
    places = windows[:, None] + np.arange(kernel) * dilation
    return ((places >= 0) & (places < size)).astype(np.float64)


def border_bias(weight: Array, scale: Array, around: Array, bias: Array | None, rows: Array, columns: Array) -> Array:
    """Return what is added to scaled sums of pixels, as windows differ by what they have outside of the image.

    Args:
        weight: int8, (out_channels, C, kernel_height, kernel_width).
        scale: Shape (out_channels,).
        around: Shape (C,).
        bias: Shape (out_channels,), or None.
        rows: From `inside_of`, (H, kernel_height).
        columns: The same, (W, kernel_width).

    Returns:
        Shape (out_channels, H, W), in float64.
    """
    taps = (weight.astype(np.float64) * around.astype(np.float64)[:, None, None]).sum(1)
    sums = rows @ (taps @ columns.T)
    offset: Array = -scale.astype(np.float64)[:, None, None] * sums
    return offset if bias is None else offset + bias.astype(np.float64)[:, None, None]
