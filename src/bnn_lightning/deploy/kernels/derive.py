"""Constants that are computed when a plan is opened: what they are, in numpy; the runtime computes the same in C.

signs     dense signs, a bit each, (groups, outputs, inputs, taps)  ->  uint32 (groups, blocks, taps, words, 16)
tap_sums  packed weights, uint32 (groups, blocks, taps, words, 16)  ->  int32 (taps, groups, blocks * 16)

The arguments of both are groups, output channels and input channels of a group, and taps.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.deploy.kernels.binary_conv import signs_of_words, weight_words
from bnn_lightning.deploy.kernels.call import Region
from bnn_lightning.deploy.kernels.constants import Derived
from bnn_lightning.deploy.kernels.layout import BLOCK, num_blocks, num_words

Array = NDArray[Any]


def signs(source: Array, groups: int, outputs: int, inputs: int, taps: int) -> Array:
    """Expand dense signs, bytes of 8 each, to packed weights.

    Example:
        >>> signs(np.array([0b101], np.uint8), 1, 1, 3, 1).ravel()[:2]
        array([5, 0], dtype=uint32)
    """
    count = groups * outputs * inputs * taps
    bits = np.unpackbits(source[: -(-count // 8)], count=count, bitorder="little")
    return weight_words(bits.reshape(groups * outputs, inputs, taps, 1), groups)


def tap_sums(source: Array, groups: int, outputs: int, inputs: int, taps: int) -> Array:
    """Sum what each tap contributes, counted as -1, where it lies in a zero padding, whose bits are 0.

    That is minus the sum of the signs over the input channels, 0 beyond the last output channel.

    Example:
        >>> words = signs(np.array([0b101], np.uint8), 1, 1, 3, 1)
        >>> tap_sums(words.view(np.uint8).ravel(), 1, 1, 3, 1).ravel()[:2]
        array([-1,  0], dtype=int32)
    """
    shape = (groups, num_blocks(outputs), taps, num_words(inputs), BLOCK)
    words = source[: 4 * int(np.prod(shape))].view("<u4").reshape(shape)
    sums = np.zeros((taps, groups, num_blocks(outputs) * BLOCK), np.int32)
    of_taps = -signs_of_words(words, outputs, inputs).sum(1, dtype=np.int32)
    sums[:, :, :outputs] = of_taps.reshape(groups, outputs, taps).transpose(2, 0, 1)
    return sums


KINDS: Mapping[str, Callable[..., Array]] = {"signs": signs, "tap_sums": tap_sums}


def compute(derived: tuple[Derived, ...], constants: Array, memory: Array) -> None:
    """Fill the region DERIVED.

    Args:
        derived: Of a plan.
        constants: Section of constants, bytes.
        memory: The region, bytes.
    """
    for item in derived:
        source = constants if item.source.region == Region.CONSTANTS else memory
        result = KINDS[item.kind](source[item.source.offset :], *item.arguments)
        raw = np.ascontiguousarray(result).view(np.uint8).ravel()
        memory[item.address.offset : item.address.offset + raw.size] = raw
