"""Layouts of constants in a packed file: as kernels read them, so that each is stored once. Numpy alone.

    dense    row by row, as the dtype says
    bits     signs row by row, a bit each, 1 for +1, the first in the lowest bit; zeros fill the last byte
    blocked  weights, (outputs, inputs, height, width) or (outputs, inputs), as (outputs, height * width * inputs):
             (blocks, factors, 16), a block being 16 outputs side by side
    words    signs of a convolution, (outputs, inputs, height, width): uint32 (groups, blocks, taps, words, 16), a word
             being the signs of 32 inputs, the first in the lowest bit, a tap a place of the window
    quads    weights of images in bytes, (outputs, inputs, height, width): (blocks, quads, 16, 4), a quad being four
             places of a row of the window, the last ones zeros where four do not divide it

Outputs and inputs that fill no block or word are filled up with zeros, in each group by itself.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

DTYPES = {"f32": "<f4", "i8": "|i1", "i32": "<i4", "i64": "<i8", "bits": "|u1"}
LAYOUTS = ("dense", "bits", "blocked", "words", "quads")
_BLOCK, _WORD, _QUAD = 16, 32, 4


def plain_layout(dtype: str) -> str:
    """Return the layout of constants that no kernel reads."""
    return "bits" if dtype == "bits" else "dense"


def stored_form(layout: str, dtype: str, shape: tuple[int, ...], groups: int) -> tuple[str, tuple[int, ...]]:
    """Return numpy's dtype and the shape of a constant as it is stored.

    Args:
        layout: One of `LAYOUTS`.
        dtype: A key of `DTYPES`.
        shape: Shape of the constant.
        groups: Groups of channels, for "words".

    Raises:
        ValueError: The layout does not take such a constant.

    Example:
        >>> stored_form("blocked", "f32", (20, 3, 3, 3), 1), stored_form("bits", "bits", (3, 5), 1)
        (('<f4', (2, 27, 16)), ('|u1', (2,)))
    """
    if layout == "dense" and dtype != "bits":
        return DTYPES[dtype], shape
    if layout == "bits" and dtype == "bits":
        return DTYPES[dtype], (-(-math.prod(shape) // 8),)
    if layout == "blocked" and dtype != "bits" and len(shape) >= 2:
        return DTYPES[dtype], (-(-shape[0] // _BLOCK), math.prod(shape[1:]), _BLOCK)
    if layout == "words" and dtype == "bits" and len(shape) == 4 and groups > 0 and shape[0] % groups == 0:
        blocks = -(-(shape[0] // groups) // _BLOCK)
        return "<u4", (groups, blocks, shape[2] * shape[3], -(-shape[1] // _WORD), _BLOCK)
    if layout == "quads" and dtype == "i8" and len(shape) == 4:
        quads = shape[1] * shape[2] * -(-shape[3] // _QUAD)
        return DTYPES[dtype], (-(-shape[0] // _BLOCK), quads, _BLOCK, _QUAD)
    raise ValueError(f"The layout {layout!r:.60} does not take {dtype} of the shape {shape} in {groups} groups.")


def to_layout(values: Array, layout: str, dtype: str, groups: int = 1) -> Array:
    """Return a constant as it is stored.

    Args:
        values: The constant; signs as -1 and +1.
        layout: See `stored_form`, as are dtype and groups.
        dtype: A key of `DTYPES`.
        groups: Groups of channels, for "words".

    Example:
        >>> to_layout(np.array([1, -1, 1]), "bits", "bits")
        array([5], dtype=uint8)
    """
    kind, shape = stored_form(layout, dtype, values.shape, groups)
    if layout == "bits":
        return np.packbits(values.reshape(-1) > 0, bitorder="little")
    if layout == "dense":
        return np.ascontiguousarray(values, kind)
    if layout == "blocked":
        rows = np.zeros((shape[0] * _BLOCK, shape[1]), kind)
        rows[: len(values)] = np.moveaxis(values, 1, -1).reshape(len(values), shape[1])  # input channels side by side
        return np.ascontiguousarray(rows.reshape(-1, _BLOCK, shape[1]).transpose(0, 2, 1))
    if layout == "quads":
        fill = ((0, shape[0] * _BLOCK - len(values)), (0, 0), (0, 0), (0, -values.shape[3] % _QUAD))
        whole = np.pad(values, fill).reshape(shape[0], _BLOCK, shape[1], _QUAD)
        return np.ascontiguousarray(whole.transpose(0, 2, 1, 3), kind)
    blocks, taps, words = shape[1:4]
    outputs, inputs = values.shape[0] // groups, values.shape[1]
    bits = np.zeros((groups, blocks * _BLOCK, taps, words * _WORD), bool)
    of_taps = values.reshape(groups, outputs, inputs, taps).transpose(0, 1, 3, 2)
    bits[:, :outputs, :, :inputs] = of_taps > 0
    packed = np.packbits(bits, axis=-1, bitorder="little").view("<u4")
    packed = packed.reshape(groups, blocks, _BLOCK, taps, words)
    return np.ascontiguousarray(packed.transpose(0, 1, 3, 4, 2))


def from_layout(stored: Array, layout: str, shape: tuple[int, ...], groups: int = 1) -> Array:
    """Undo `to_layout`; signs are int8, -1 and +1.

    Args:
        stored: Array of the shape that `stored_form` says.
        layout: One of `LAYOUTS`.
        shape: Shape of the constant.
        groups: Groups of channels, for "words".

    Example:
        >>> from_layout(np.array([5], np.uint8), "bits", (3,))
        array([ 1, -1,  1], dtype=int8)
    """
    if layout == "dense":
        return stored
    if layout == "bits":
        bits = np.unpackbits(stored, count=math.prod(shape), bitorder="little")
        return (2 * bits.astype(np.int8) - 1).reshape(shape)
    if layout == "blocked":
        rows = stored.transpose(0, 2, 1).reshape(-1, stored.shape[1])[: shape[0]]
        return np.ascontiguousarray(np.moveaxis(rows.reshape(shape[0], *shape[2:], shape[1]), -1, 1))
    if layout == "quads":
        rows = stored.transpose(0, 2, 1, 3).reshape(-1, *shape[1:3], -(-shape[3] // _QUAD) * _QUAD)
        return np.ascontiguousarray(rows[: shape[0], ..., : shape[3]])
    blocks, taps, words = stored.shape[1:4]
    raw = np.ascontiguousarray(stored.transpose(0, 1, 4, 2, 3)).view(np.uint8)
    bits = np.unpackbits(raw.reshape(groups, blocks * _BLOCK, taps, 4 * words), axis=-1, bitorder="little")
    signs = bits[:, : shape[0] // groups, :, : shape[1]].transpose(0, 1, 3, 2).astype(np.int8)
    return (2 * signs - 1).reshape(shape)
