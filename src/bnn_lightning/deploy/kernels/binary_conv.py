"""Calls of the binary kernels: convolution of packed signs, and packing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.deploy.ir.operations import EPILOGUE
from bnn_lightning.deploy.kernels.call import Address, Field, KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.layout import (
    BLOCK,
    IMAGES,
    WORD_BITS,
    Map,
    Pair,
    Shape,
    given,
    num_blocks,
    num_words,
    out_size,
    packed,
    spread,
)

Array = NDArray[Any]
_FARTHEST = 1 << 31  # words: kernels count offsets in 32 bits


@dataclass(frozen=True)
class PackedMap:
    """Packed signs of a map in memory: (N, height, width, words), with their padding.

    Attributes:
        address: First byte.
        height: Rows, those of the padding included.
        width: Columns, those of the padding included.
        words: Words of a pixel.
        top: Rows of padding above.
        left: Columns of padding on the left.
    """

    address: Address
    height: int
    width: int
    words: int
    top: int = 0
    left: int = 0


@dataclass(frozen=True, eq=False)
class SignConv2d:
    """A binary convolution of packed signs, with what follows it.

    `clamp(prelu(scale * (gain * dot + offset) + bias + residual + lift) + shift)`, each where it is given.

    Attributes:
        signs: -1 and +1, (out_channels, in_channels / groups, kernel_height, kernel_width).
        stride: Stride of rows and columns.
        padding: Pixels above, below, on the left and on the right.
        dilation: Dilation of rows and columns.
        groups: Divides both numbers of channels.
        pad_value: 0, -1 or +1.
        parameters: Values of the epilogue by name, (out_channels,).
        low: Lower bound.
        high: Upper bound.
        constant: Number of the signs among the constants of the graph.
    """

    signs: Array
    stride: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    pad_value: float = 0.0
    parameters: dict[str, Array] | None = None
    low: float = -math.inf
    high: float = math.inf
    constant: int | None = None

    @property
    def out_channels(self) -> int:
        """Channels of the result, of one group."""
        return int(self.signs.shape[0]) // self.groups

    @property
    def in_channels(self) -> int:
        """Channels of the input, of one group."""
        return int(self.signs.shape[1])

    @property
    def kernel_size(self) -> Pair:
        """Height and width of a window."""
        return self.signs.shape[2], self.signs.shape[3]

    def padded(self, shape: Shape) -> tuple[int, int, int]:
        """Return height, width and words of the packed signs of a map."""
        top, bottom, left, right = self.padding
        words = self.groups * num_words(self.in_channels)
        return shape[1] + top + bottom, shape[2] + left + right, words

    def out_shape(self, shape: Shape) -> Shape:
        """Return the shape of the result for a map of this shape."""
        sizes = self.padded(shape)
        height, width = (out_size(sizes[i], self.kernel_size[i], self.stride[i], self.dilation[i]) for i in (0, 1))
        return self.groups * self.out_channels, height, width

    def call(
        self,
        constants: ConstantSection,
        x: Address,
        shape: Shape,
        out: Map | None,
        *,
        residual: Map | None = None,
        node: int = 0,
    ) -> KernelCall:
        """Return the call for a map of this shape.

        Args:
            constants: Section that takes weights and parameters.
            x: Packed signs of the map, as `padded` says.
            shape: Shape of the map.
            out: Place of the result, dense; None writes no floats.
            residual: Summand; fewer channels than the result's are read again and again.
            node: Number of the value.
        """
        height, width, words = self.padded(shape)
        channels, out_height, out_width = self.out_shape(shape)
        zeros = self.pad_value == 0 and any(self.padding)
        weight = packed_weight(constants, self.signs, self.groups, self.constant)
        fields: dict[str, Field | None] = {
            "images": IMAGES,
            **conv_sizes(
                (height, width),
                (out_height, out_width),
                groups=self.groups,
                words=words // self.groups,
                channels=(self.in_channels, self.out_channels),
                kernel_size=self.kernel_size,
                stride=self.stride,
                dilation=self.dilation,
            ),
            "x": x,
            "weight": weight,
            "offsets": constants.add(
                window_offsets(width, self.groups, words // self.groups, self.kernel_size, self.dilation)
            ),
            "low": self.low,
            "high": self.high,
            "out": None if out is None else out.address,
            **self._residual(residual, channels),
            **self._parameters(constants),
        }
        if zeros:
            fields |= {"pad_y": self.padding[0], "pad_x": self.padding[2]}
            fields |= {"real_height": shape[1], "real_width": shape[2]}
        if zeros or "center" in fields:
            fields |= {"tap_sums": self._tap_sums(constants, weight)}
        return KernelCall("convolve", given(fields), node)

    def _parameters(self, constants: ConstantSection) -> dict[str, Field | None]:
        channels = self.groups * self.out_channels
        values = {"scale": np.ones(channels), "bias": np.zeros(channels), **(self.parameters or {})}
        return {name: constants.add(spread(values[name], groups=self.groups)) for name in EPILOGUE if name in values}

    @staticmethod
    def _residual(residual: Map | None, channels: int) -> dict[str, Field | None]:
        if residual is None:
            return {}
        repeated = residual.shape[0] != channels
        return {"residual": residual.address, "residual_channels": residual.shape[0] if repeated else 0}

    def _tap_sums(self, constants: ConstantSection, weight: Address) -> Address:
        taps = self.kernel_size[0] * self.kernel_size[1]
        size = taps * self.groups * num_blocks(self.out_channels) * BLOCK * 4
        return constants.derive("tap_sums", weight, size, self.groups, self.out_channels, self.in_channels, taps)


def conv_sizes(
    padded: Sequence[int],
    out: Sequence[int],
    *,
    groups: int,
    words: int,
    channels: tuple[int, int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> dict[str, int]:
    """Return the fields of a convolution that follow from the layer and from the size of a map.

    Args:
        padded: Height and width of the packed signs.
        out: Height and width of the result.
        groups: Groups of channels.
        words: Words of a pixel, of one group.
        channels: Input and output channels of one group.
        kernel_size: Height and width of a window.
        stride: Stride of rows and columns.
        dilation: Dilation of rows and columns.
    """
    return {
        "height": padded[0],
        "width": padded[1],
        "out_height": out[0],
        "out_width": out[1],
        "groups": groups,
        "words": words,
        "channels": channels[1],
        "kernel_height": kernel_size[0],
        "kernel_width": kernel_size[1],
        "stride_y": stride[0],
        "stride_x": stride[1],
        "dilation_y": dilation[0],
        "dilation_x": dilation[1],
        "reach": kernel_size[0] * kernel_size[1] * channels[0],
    }


def window_offsets(width: int, groups: int, words: int, kernel_size: Pair, dilation: Pair) -> Array:
    """Return how far, in words, each word of a window lies from its first one.

    Args:
        width: Columns of the packed signs.
        groups: Groups of channels.
        words: Words of a pixel, of one group.
        kernel_size: Height and width of a window.
        dilation: Dilation of rows and columns.

    Raises:
        ValueError: Farther than kernels count.
    """
    (rows, columns), (down, right), every = kernel_size, dilation, groups * words
    farthest = ((rows - 1) * down * width + (columns - 1) * right + 1) * every
    if farthest >= _FARTHEST:
        raise ValueError(f"A window must span fewer than 2^31 words, not {farthest}.")
    pixels = np.arange(rows)[:, None] * down * width + np.arange(columns) * right
    return (pixels.reshape(-1, 1) * every + np.arange(words)).ravel().astype(np.int32)


def packed_weight(constants: ConstantSection, signs: Array, groups: int, of: int | None) -> Address:
    """Return the address of packed weights, uint32 (groups, blocks, taps, words, 16).

    Signs that fill words and blocks lie so in the section. Others lie there densely, one bit a weight, and are expanded
    when the plan is opened.
    """
    outputs, inputs, taps = len(signs) // groups, signs.shape[1], signs[0, 0].size
    if outputs % BLOCK == 0 and inputs % WORD_BITS == 0:
        return constants.add(weight_words(signs, groups), of=of, layout="words", groups=groups)
    dense = constants.add(np.packbits(signs.reshape(-1) > 0, bitorder="little"), of=of, layout="bits")
    size = groups * num_blocks(outputs) * taps * num_words(inputs) * BLOCK * 4
    return constants.derive("signs", dense, size, groups, outputs, inputs, taps)


def weight_words(signs: Array, groups: int) -> Array:
    """Pack the signs of a convolution's weights.

    Args:
        signs: -1 and +1, (out_channels, in_channels / groups, kernel_height, kernel_width).
        groups: Divides out_channels.

    Returns:
        uint32, (groups, blocks, taps, words, 16); output channels beyond the last one are 0.

    Example:
        >>> weight_words(np.ones((2, 3, 1, 1)), 1).shape
        (1, 1, 1, 1, 16)
    """
    outputs, inputs = len(signs) // groups, signs.shape[1]
    words = packed(signs.reshape(groups, outputs, inputs, -1).transpose(0, 1, 3, 2) > 0)
    padded = np.zeros((groups, num_blocks(outputs) * BLOCK, *words.shape[2:]), words.dtype)
    padded[:, :outputs] = words
    return np.ascontiguousarray(padded.reshape(groups, -1, BLOCK, *words.shape[2:]).transpose(0, 1, 3, 4, 2))


def signs_of_words(words: Array, outputs: int, inputs: int) -> Array:
    """Undo `weight_words`: int8, -1 and +1, (groups * outputs, inputs, taps).

    Args:
        words: uint32, (groups, blocks, taps, words, 16).
        outputs: Output channels of one group.
        inputs: Input channels of one group.
    """
    groups, _, taps = words.shape[:3]
    rows = words.transpose(0, 1, 4, 2, 3).reshape(groups, -1, taps, words.shape[3])[:, :outputs]
    bits = np.unpackbits(np.ascontiguousarray(rows).view(np.uint8), axis=-1, bitorder="little")[..., :inputs]
    return (2 * bits.astype(np.int8) - 1).transpose(0, 1, 3, 2).reshape(groups * outputs, inputs, taps)


def pack_signs(
    constants: ConstantSection, x: Map, threshold: Array, groups: int, out: PackedMap, *, node: int = 0
) -> KernelCall:
    """Return the call that packs the signs of a map by itself.

    Args:
        constants: Section that takes the thresholds.
        x: The map.
        threshold: Values, (channels,), at and above which a sign is +1.
        groups: Divides the channels; each has its own words.
        out: Place of the signs.
        node: Number of the value.
    """
    padded = np.full((groups, out.words // groups * WORD_BITS), np.inf, np.float32)
    padded[:, : x.shape[0] // groups] = threshold.reshape(groups, -1)
    fields: dict[str, Field | None] = {
        "images": IMAGES,
        **pack_sizes(x.shape, x.strides, groups, (out.height, out.width, out.words), (out.top, out.left)),
        "x": x.address,
        "threshold": constants.add(padded),
        "bits": out.address,
    }
    return KernelCall("pack", given(fields), node)


def pack_sizes(
    shape: Sequence[int], strides: Sequence[int], groups: int, packed: Sequence[int], begin: Pair
) -> dict[str, int]:
    """Return the fields of packing that follow from the sizes of a map.

    Args:
        shape: Channels, height and width of the map.
        strides: Elements from one image, channel, row and column of it to the next.
        groups: Divides the channels.
        packed: Height, width and words of the packed signs.
        begin: Row and column of the packed signs that the map begins at.
    """
    return {
        "channels": shape[0] // groups,
        "height": shape[1],
        "width": shape[2],
        "groups": groups,
        "words": packed[2] // groups,
        **dict(zip(("stride_image", "stride_channel", "stride_y", "stride_x"), strides, strict=True)),
        "bits_height": packed[0],
        "bits_width": packed[1],
        "top": begin[0],
        "left": begin[1],
    }


def emitting(call: KernelCall, constants: ConstantSection, threshold: Array, groups: int, out: PackedMap) -> KernelCall:
    """Return a call that writes the signs of its result, too.

    Args:
        call: Its kernel has the fields of signs, or `after` in them.
        constants: Section that takes the thresholds.
        threshold: Values, (channels,), at and above which a sign is +1.
        groups: Groups that the parameters of the call are laid out in.
        out: Place of the signs.
    """
    fields: dict[str, Field | None] = {
        "bits_height": out.height,
        "bits_width": out.width,
        "bits_top": out.top,
        "bits_left": out.left,
        "bits_words": out.words,
        "threshold": constants.add(spread(threshold, groups=groups, fill=math.inf)),
        "bits": out.address,
    }
    prefix = "" if call.kernel == "convolve" else "after."
    return KernelCall(call.kernel, {**call.fields, **given(fields, prefix)}, call.node)


def summing(call: KernelCall, sums: Address) -> KernelCall:
    """Return a call that writes the sums of its result over parts of the map, too."""
    return KernelCall(call.kernel, {**call.fields, "sums": sums}, call.node)
