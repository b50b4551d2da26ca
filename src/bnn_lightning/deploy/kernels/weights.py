"""Weights of real-valued kernels: in the section of constants once, as the graph or as kernels have them."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.deploy.kernels.call import Address
from bnn_lightning.deploy.kernels.constants import ALIGN, ConstantSection
from bnn_lightning.deploy.kernels.layout import BLOCK, blocked, num_blocks

Array = NDArray[Any]
# Blocks are mapped where what fills them up is at most a 16th of them, and computed at opening where it is more.
_MOST_FILL = 16
_KINDS = {"f32": "blocked_floats", "bits": "blocked_signs", "i8": "blocked_scaled"}


@dataclass(frozen=True, eq=False)
class Source:
    """The constant of the graph that a weight is.

    Attributes:
        constant: Its number.
        dtype: "f32", "i8" or "bits".
        values: As the graph holds it; signs as -1 and +1.
        scale: Scale of each output, float32, that floats made of int8 are multiplied by; None: int8 is read as it is.
        factors: Factor of each input, float64, that floats are multiplied by then; None: they are not.
    """

    constant: int
    dtype: str
    values: Array
    scale: Array | None = None
    factors: Array | None = None


def blocked_weight(constants: ConstantSection, weight: Array, source: Source | None, *, groups: int = 1) -> Address:
    """Return the address of a weight as kernels read it: (groups, blocks, taps and inputs, 16).

    A weight that is a constant of the graph lies in the section once: as kernels read it, or as the graph has it, and
    then it is laid out when the plan is opened.

    Args:
        constants: The section.
        weight: Shape (groups * outputs, inputs, ...), float32 or int8.
        source: Constant in the graph; None: it was computed.
        groups: Each has blocks of its own.
    """
    rows = np.moveaxis(weight, 1, -1).reshape(len(weight), -1)
    outputs, inputs = len(weight) // groups, weight.shape[1]
    fill = -outputs % BLOCK
    whole = fill == 0 or (groups == 1 and fill * _MOST_FILL <= outputs)
    if source is None or (whole and source.dtype != "bits" and source.scale is source.factors is None):
        values = np.concatenate([blocked(part) for part in np.split(rows, groups)])
        return constants.add(values, of=None if source is None else source.constant, layout="blocked")
    signs = source.dtype == "bits"
    dense = np.packbits(source.values.reshape(-1) > 0, bitorder="little") if signs else source.values
    address = constants.add(dense, of=source.constant, layout="bits" if signs else "dense")
    arguments = [groups, outputs, inputs, math.prod(weight.shape[2:])]
    floats = weight.dtype == np.float32
    for factor in (source.scale, source.factors) if floats else ():
        arguments.append(0 if factor is None else 1 + constants.add(factor).offset // ALIGN)
    kind = _KINDS[source.dtype] if floats else "blocked_bytes"
    size = groups * num_blocks(outputs) * BLOCK * rows.shape[1] * weight.itemsize
    return constants.derive(kind, address, size, *arguments)
