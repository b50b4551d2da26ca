"""Arguments of the kernels: mirrors of the structures of arguments.h."""

import ctypes
from collections.abc import Iterator, Mapping
from enum import IntEnum
from functools import cache
from typing import Any

from bnn_lightning.deploy.ir.operations import EPILOGUE

# Constants of arguments.h.
VERSION = 13  # of the structures
PART = 60  # pixels of a part of a map that is summed
WORKERS = 16  # shares of memory that workers have of their own (`work`, `work_size` bytes each)
LINE = 64  # bytes of a line of the cache
MOST_LINES = 16  # rows of a window of maxima
# Values of channels in `struct after`, the epilogue of all kernels but the binary convolution.
AFTER = ("slope", "shift")


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class After(ctypes.Structure):
    """`struct after`."""

    _fields_ = [
        *_fields(ctypes.c_int64, "height width channels out_channels"),
        *_fields(ctypes.c_int64, "bits_height bits_width bits_top bits_left bits_words"),
        *_fields(ctypes.c_void_p, "threshold"),
        *_fields(ctypes.c_float, "low high"),
        *_fields(ctypes.c_void_p, "out bits"),
        *((name, ctypes.c_void_p) for name in AFTER),
    ]


class Windows(ctypes.Structure):
    """`struct windows`."""

    _fields_ = _fields(ctypes.c_int64, "height width stride_y stride_x pad_y pad_x")


class Convolution(ctypes.Structure):
    """`struct bnn_convolve`."""

    _fields_ = [
        *_fields(ctypes.c_int64, "images height width out_height out_width groups words channels"),
        *_fields(ctypes.c_int64, "kernel_height kernel_width stride_y stride_x dilation_y dilation_x"),
        *_fields(ctypes.c_int64, "pad_y pad_x real_height real_width reach"),
        *_fields(ctypes.c_int64, "bits_height bits_width bits_top bits_left bits_words residual_channels"),
        *_fields(ctypes.c_void_p, "x weight tap_sums offsets"),
        *_fields(ctypes.c_void_p, "residual threshold"),
        *_fields(ctypes.c_float, "low high"),
        *_fields(ctypes.c_void_p, "out bits sums"),
        *((name, ctypes.c_void_p) for name in EPILOGUE),
    ]


class Packing(ctypes.Structure):
    """`struct bnn_pack`."""

    _fields_ = [
        *_fields(ctypes.c_int64, "images channels height width groups words"),
        *_fields(ctypes.c_int64, "stride_image stride_channel stride_y stride_x bits_height bits_width top left"),
        *_fields(ctypes.c_void_p, "x threshold bits"),
    ]


class RealConvolution(ctypes.Structure):
    """`struct bnn_real_convolve`."""

    _fields_ = [
        *_fields(ctypes.c_int64, "images channels height width kernel_height kernel_width stride_y stride_x"),
        *_fields(ctypes.c_int64, "dilation_y dilation_x pad_y pad_x x_image x_channel x_y x_x pool band factors"),
        *_fields(ctypes.c_void_p, "x"),
        *_fields(ctypes.c_int64, "bytes whole"),
        *_fields(ctypes.c_void_p, "weight bias gain offset residual mean std offsets scale bias_y bias_x"),
        *_fields(ctypes.c_void_p, "work"),
        *_fields(ctypes.c_int64, "work_size"),
        ("maxima", Windows),
        ("inner", After),
        ("after", After),
    ]


class Multiplying(ctypes.Structure):
    """`struct bnn_linear`."""

    _fields_ = [
        *_fields(ctypes.c_int64, "rows factors x_row"),
        *_fields(ctypes.c_void_p, "x weight scale bias bytes"),
        ("after", After),
    ]


class Pooling(ctypes.Structure):
    """`struct bnn_pool`."""

    _fields_ = [
        *_fields(ctypes.c_int64, "images height width"),
        ("windows", Windows),
        *_fields(ctypes.c_int64, "average divisor"),
        *_fields(ctypes.c_void_p, "x before"),
        ("after", After),
    ]


class Summing(ctypes.Structure):
    """`struct bnn_sum`."""

    _fields_ = [
        *_fields(ctypes.c_int64, "images pixels channels sums_channels"),
        *_fields(ctypes.c_void_p, "x before sums"),
    ]


class Averaging(ctypes.Structure):
    """`struct bnn_average`."""

    _fields_ = [
        *_fields(ctypes.c_int64, "images parts channels sums_channels"),
        *_fields(ctypes.c_void_p, "sums mean"),
        ("factor", ctypes.c_float),
    ]


class Padding(ctypes.Structure):
    """`struct bnn_pad`."""

    _fields_ = [*_fields(ctypes.c_int64, "pixels channels first inner"), *_fields(ctypes.c_void_p, "out")]


class Gating(ctypes.Structure):
    """`struct bnn_gate`."""

    _fields_ = [
        *_fields(ctypes.c_int64, "images channels hidden out_channels"),
        *_fields(ctypes.c_void_p, "own other mix"),
        *_fields(ctypes.c_void_p, "squeeze squeeze_scale squeeze_bias excite excite_scale excite_bias"),
        *_fields(ctypes.c_void_p, "squeeze_bytes excite_bytes work gate"),
    ]


class Combining(ctypes.Structure):
    """`struct bnn_combine`."""

    _fields_ = [
        *_fields(ctypes.c_int64, "images parts x_channels residual_channels multiply"),
        *_fields(ctypes.c_void_p, "x gate second second_gate residual residual_slope scale bias inner"),
        *_fields(ctypes.c_void_p, "sums half half_slope"),
        ("after", After),
    ]


class GroupConvolution(ctypes.Structure):
    """`struct bnn_group_convolve`."""

    _fields_ = [
        *_fields(ctypes.c_int64, "images height width groups channels kernel_height kernel_width stride_y stride_x"),
        *_fields(ctypes.c_int64, "dilation_y dilation_x pad_y pad_x"),
        *_fields(ctypes.c_void_p, "x weight bias gain offset residual"),
        ("after", After),
    ]


class Copying(ctypes.Structure):
    """`struct bnn_copy`."""

    _fields_ = [
        *_fields(ctypes.c_int64, "images size_0 size_1 size_2 x_image x_0 x_1 x_2 out_image out_0 out_1 out_2 bytes"),
        *_fields(ctypes.c_void_p, "x mean std out"),
        ("value", ctypes.c_float),
    ]


class Unary(ctypes.Structure):
    """`struct bnn_unary`."""

    _fields_ = [
        *_fields(ctypes.c_int64, "count function"),
        *_fields(ctypes.c_void_p, "x out"),
        *_fields(ctypes.c_float, "a b"),
    ]


class Binary(ctypes.Structure):
    """`struct bnn_binary`."""

    _fields_ = [
        *_fields(ctypes.c_int64, "images size_0 size_1 size_2 x_image x_0 x_1 x_2 y_image y_0 y_1 y_2 function"),
        *_fields(ctypes.c_void_p, "x y out"),
    ]


class Softmax(ctypes.Structure):
    """`struct bnn_softmax`."""

    _fields_ = [*_fields(ctypes.c_int64, "rows classes inner logarithm"), *_fields(ctypes.c_void_p, "x out")]


class Reduction(ctypes.Structure):
    """`struct bnn_reduce`."""

    _fields_ = [
        *_fields(ctypes.c_int64, "images size_0 size_1 sum_0 sum_1 sum_2 x_image x_0 x_1 by_0 by_1 by_2 maximum"),
        *_fields(ctypes.c_void_p, "x out"),
        ("factor", ctypes.c_float),
    ]


class Normalizing(ctypes.Structure):
    """`struct bnn_layer_norm`."""

    _fields_ = [
        *_fields(ctypes.c_int64, "rows features"),
        *_fields(ctypes.c_void_p, "x scale shift out"),
        ("eps", ctypes.c_float),
    ]


# By name, in the order of their numbers in a plan section, which is that of arguments.h.
KERNELS: dict[str, type[ctypes.Structure]] = {
    "convolve": Convolution,
    "pack": Packing,
    "real_convolve": RealConvolution,
    "linear": Multiplying,
    "pool": Pooling,
    "sum": Summing,
    "average": Averaging,
    "pad": Padding,
    "gate": Gating,
    "combine": Combining,
    "group_convolve": GroupConvolution,
    "copy": Copying,
    "unary": Unary,
    "binary": Binary,
    "softmax": Softmax,
    "reduce": Reduction,
    "layer_norm": Normalizing,
}


class Function(IntEnum):
    """`function` of `Unary`, with the parameters a and b; of elementwise.c."""

    SIGMOID = 0
    TANH = 1
    HARDSIGMOID = 2
    HARDSWISH = 3
    SILU = 4
    GELU = 5
    GELU_TANH = 6
    LEAKY_RELU = 7  # slope a
    CLAMP = 8  # between a and b
    ADD_NUMBER = 9
    MULTIPLY_NUMBER = 10
    DIVIDE_NUMBER = 11


class Pair(IntEnum):
    """`function` of `Binary`; of elementwise.c."""

    ADD = 0
    SUBTRACT = 1
    MULTIPLY = 2
    DIVIDE = 3


@cache
def field_offsets(kernel: str) -> Mapping[str, tuple[int, Any]]:
    """Return place and type of the fields of a kernel's structure, in order; "after.out" is one of a structure in it.

    Example:
        >>> field_offsets("pad")["first"][0], list(field_offsets("linear"))[-1]
        (16, 'after.shift')
    """
    return {name: (offset, kind) for name, offset, kind in _flat(KERNELS[kernel], "", 0)}


def _flat(structure: type[ctypes.Structure], prefix: str, begin: int) -> Iterator[tuple[str, int, Any]]:
    for name, kind, *_ in structure._fields_:
        offset = begin + getattr(structure, name).offset
        if issubclass(kind, ctypes.Structure):
            yield from _flat(kind, f"{prefix}{name}.", offset)
        else:
            yield prefix + name, offset, kind


def structure_of(kernel: str, fields: Mapping[str, int | float]) -> ctypes.Structure:
    """Return the arguments of a kernel.

    Args:
        kernel: Its name.
        fields: Numbers and addresses by name; others are 0.

    Example:
        >>> structure_of("pad", {"pixels": 3}).pixels
        3
    """
    structure = KERNELS[kernel]()
    places = field_offsets(kernel)
    for name, value in fields.items():
        offset, kind = places[name]
        kind.from_buffer(structure, offset).value = value
    return structure
