"""Constants that are computed when a plan is opened: what they are, in numpy; the runtime computes the same in C.

signs           dense signs, a bit each, (groups, outputs, inputs, taps)  ->  uint32 (groups, blocks, taps, words, 16)
tap_sums        packed weights, uint32 (groups, blocks, taps, words, 16)  ->  int32 (taps, groups, blocks * 16)
blocked_floats  float32 (groups, outputs, inputs, taps)                   ->  float32 (groups, blocks, taps, inputs, 16)
blocked_signs   dense signs, a bit each, of that shape                    ->  the same, of -1 and +1
blocked_scaled  int8 of that shape                                        ->  the same
blocked_bytes   int8 of that shape                                        ->  int8 of the shape of the result

The arguments of all are groups, output channels and input channels of a group, and taps. Floats have two more: where
scales of the outputs, float32 (groups, outputs), and factors of the inputs, float64 (inputs,), lie in the section of
constants; the offset divided by 64, and 1 more; 0 is none. Weights are multiplied by the first in float32, by the
second in float64, and rounded after each.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.deploy.kernels.binary_conv import signs_of_words, weight_words
from bnn_lightning.deploy.kernels.call import Region
from bnn_lightning.deploy.kernels.constants import ALIGN, Derived
from bnn_lightning.deploy.kernels.job import CallError
from bnn_lightning.deploy.kernels.layout import BLOCK, blocked, num_blocks, num_words

Array = NDArray[Any]
# Limits of what a file's constants are worth, so that no small file opens longer than BNext-Tiny: bytes of all that is
# derived, and the values that it is computed from. A block of outputs counts as some values, two summed words as one.
MOST_BYTES, BYTES_OF_BYTE = 5 << 22, 32
MOST_VALUES, VALUES_OF_BYTE, VALUES_OF_BLOCK = 1 << 20, 9, 8


def signs(region: Array, at: int, groups: int, outputs: int, inputs: int, taps: int) -> Array:
    """Expand dense signs, bytes of 8 each, to packed weights.

    Example:
        >>> signs(np.array([0b101], np.uint8), 0, 1, 1, 3, 1).ravel()[:2]
        array([5, 0], dtype=uint32)
    """
    bits = _bits(region, at, groups * outputs * inputs * taps)
    return weight_words(bits.reshape(groups * outputs, inputs, taps, 1), groups)


def tap_sums(region: Array, at: int, groups: int, outputs: int, inputs: int, taps: int) -> Array:
    """Sum what each tap contributes, counted as -1, where it lies in a zero padding, whose bits are 0.

    That is minus the sum of the signs over the input channels, 0 beyond the last output channel.

    Example:
        >>> words = signs(np.array([0b101], np.uint8), 0, 1, 1, 3, 1)
        >>> tap_sums(words.view(np.uint8).ravel(), 0, 1, 1, 3, 1).ravel()[:2]
        array([-1,  0], dtype=int32)
    """
    shape = (groups, num_blocks(outputs), taps, num_words(inputs), BLOCK)
    words = region[at : at + 4 * int(np.prod(shape))].view("<u4").reshape(shape)
    sums = np.zeros((taps, groups, num_blocks(outputs) * BLOCK), np.int32)
    of_taps = -signs_of_words(words, outputs, inputs).sum(1, dtype=np.int32)
    sums[:, :, :outputs] = of_taps.reshape(groups, outputs, taps).transpose(2, 0, 1)
    return sums


def blocked_floats(region: Array, at: int, *shape: int) -> Array:
    """Lay floats out as kernels read them.

    Example:
        >>> values = np.arange(6, dtype=np.float32)
        >>> blocked_floats(values.view(np.uint8), 0, 1, 2, 3, 1, 0, 0)[0, :, :2]
        array([[0., 3.],
               [1., 4.],
               [2., 5.]], dtype=float32)
    """
    return _floats(region[at : at + 4 * math.prod(shape[:4])].view("<f4"), region, *shape)


def blocked_signs(region: Array, at: int, *shape: int) -> Array:
    """Lay dense signs out as floats.

    Example:
        >>> blocked_signs(np.array([0b101], np.uint8), 0, 1, 1, 3, 1, 0, 0)[0, :, 0]
        array([ 1., -1.,  1.], dtype=float32)
    """
    return _floats(2 * _bits(region, at, math.prod(shape[:4])).astype(np.float32) - 1, region, *shape)


def blocked_scaled(region: Array, at: int, *shape: int) -> Array:
    """Lay int8 out as floats."""
    return _floats(region[at : at + math.prod(shape[:4])].view(np.int8).astype(np.float32), region, *shape)


def blocked_bytes(region: Array, at: int, *shape: int) -> Array:
    """Lay int8 out as kernels read it."""
    return _blocked(region[at : at + math.prod(shape)].view(np.int8), *shape)


def _floats(
    values: Array, region: Array, groups: int, outputs: int, inputs: int, taps: int, scale: int, factors: int
) -> Array:
    values = values.reshape(groups * outputs, inputs, taps)
    if scale:
        begin = (scale - 1) * ALIGN
        values = values * region[begin : begin + 4 * len(values)].view("<f4")[:, None, None]
    if factors:
        begin = (factors - 1) * ALIGN
        values = (values * region[begin : begin + 8 * inputs].view("<f8")[:, None]).astype(np.float32)
    return _blocked(values, groups, outputs, inputs, taps)


def _bits(region: Array, at: int, count: int) -> Array:
    return np.unpackbits(region[at : at - (-count // 8)], count=count, bitorder="little")


def _blocked(values: Array, groups: int, outputs: int, inputs: int, taps: int) -> Array:
    rows = values.reshape(groups, outputs, inputs, taps).transpose(0, 1, 3, 2).reshape(groups, outputs, -1)
    return np.concatenate([blocked(part) for part in rows])


# In the order of their numbers in plan sections.
KINDS: Mapping[str, Callable[..., Array]] = {
    "signs": signs,
    "tap_sums": tap_sums,
    "blocked_floats": blocked_floats,
    "blocked_signs": blocked_signs,
    "blocked_scaled": blocked_scaled,
    "blocked_bytes": blocked_bytes,
}


def compute(derived: tuple[Derived, ...], constants: Array, memory: Array) -> None:
    """Fill the region DERIVED.

    Args:
        derived: Derived values of a plan.
        constants: Section of constants, bytes.
        memory: The region, bytes.
    """
    for item in derived:
        region = constants if item.source.region == Region.CONSTANTS else memory
        result = KINDS[item.kind](region, item.source.offset, *item.arguments)
        raw = np.ascontiguousarray(result).view(np.uint8).ravel()
        memory[item.address.offset : item.address.offset + raw.size] = raw


def verify_derived(derived: tuple[Derived, ...], constants: int, size: int) -> None:
    """Check what is derived before it is computed, as runtime/csrc/derive.c does.

    All is computed from the section of constants, sums of taps also from what was computed before them.

    Args:
        derived: Derived values of a plan.
        constants: Bytes of the section of constants.
        size: Bytes of the region DERIVED.

    Raises:
        CallError: A value is of no kind, leaves its memory, or there is more than the constants justify.

    Example:
        >>> from bnn_lightning.deploy.kernels.call import Address
        >>> item = Derived("signs", Address(Region.CONSTANTS), Address(Region.DERIVED), (1, 16, 32, 1))
        >>> verify_derived((item,), 64, 64)
        >>> verify_derived((item,), 63, 64)
        Traceback (most recent call last):
        bnn_lightning.deploy.kernels.job.CallError: `signs` are computed from what is none.
    """
    most = MOST_BYTES + BYTES_OF_BYTE * constants
    if size > most:
        raise CallError(
            f"Its weights take {size} bytes as kernels read them; {constants} bytes justify at most {most}."
        )
    end, values = 0, 0
    for item in derived:
        _verify_source(item, constants, end)
        place, (read, made) = item.address, _sizes(item)
        inside = place.region == Region.DERIVED and end <= place.offset <= size - made
        if not inside or place.per_image or place.offset % 4:
            raise CallError(f"`{item.kind}` lie elsewhere than in their part of the region.")
        groups, outputs = item.arguments[:2]
        values += read // 8 if item.kind == "tap_sums" else math.prod(item.arguments[:4])
        values += VALUES_OF_BLOCK * groups * num_blocks(outputs)
        if values > MOST_VALUES + VALUES_OF_BYTE * constants:
            raise CallError(
                f"{values} values are read for what is derived: constants of {constants} bytes justify fewer."
            )
        end = place.offset + made


def _verify_source(item: Derived, constants: int, end: int) -> None:
    """Check that a value is of a kind and is computed from what is there; `end`: of what was computed before."""
    kind, source = item.kind, item.source
    floats = kind in ("blocked_floats", "blocked_signs", "blocked_scaled")
    if kind not in KINDS or len(item.arguments) != (6 if floats else 4) or 0 in item.arguments[:4]:
        raise CallError(f"`{kind}` of {item.arguments} are no derived constants.")
    groups, outputs, inputs = item.arguments[:3]
    lines = zip(item.arguments[4:], (4 * groups * outputs, 8 * inputs), strict=False)
    wrong = any(line and (line - 1) * ALIGN + size > constants for line, size in lines)
    wrong |= kind in ("tap_sums", "blocked_floats") and source.offset % 4 != 0
    sizes = {Region.CONSTANTS: constants, **({Region.DERIVED: end} if kind == "tap_sums" else {})}
    if wrong or source.per_image or source.offset + _sizes(item)[0] > sizes.get(source.region, -1):
        raise CallError(f"`{kind}` are computed from what is none.")


def _sizes(item: Derived) -> tuple[int, int]:
    """Return the bytes that a value is computed from, and its own."""
    groups, outputs, inputs, taps = item.arguments[:4]
    values, lanes = groups * outputs * inputs * taps, groups * num_blocks(outputs) * BLOCK * taps
    words = 4 * lanes * num_words(inputs)
    return {
        "signs": (-(-values // 8), words),
        "tap_sums": (words, 4 * lanes),
        "blocked_floats": (4 * values, 4 * lanes * inputs),
        "blocked_signs": (-(-values // 8), 4 * lanes * inputs),
        "blocked_scaled": (values, 4 * lanes * inputs),
        "blocked_bytes": (values, lanes * inputs),
    }[item.kind]
