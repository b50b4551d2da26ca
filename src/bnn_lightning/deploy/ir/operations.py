"""The operations of a graph: their inputs, and their attributes with types and defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["int", "number", "bool", "str", "ints", "pair", "quad", "constant"]


@dataclass(frozen=True)
class Attribute:
    """An attribute of an operation.

    Attributes:
        kind: Type of its values: "number" is int or float, "ints" a list of any length, "pair" of two, "quad" of four,
            "constant" a `ConstantRef`.
        default: Value where a node has none; None is no value.
        required: Whether every node has it.
    """

    kind: Kind
    default: Any = None
    required: bool = False


@dataclass(frozen=True)
class Operation:
    """An operation.

    Attributes:
        least: Fewest inputs.
        most: Most inputs.
        attributes: By name.
    """

    least: int = 1
    most: int = 1
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


LATER = (
    "A file with others was written by a later version: install a newer bnn-lightning, or export the checkpoint again "
    "with this one."
)


def operation_of(name: str) -> Operation:
    """Return an operation by name.

    Raises:
        ValueError: It is unknown.
    """
    if name not in OPERATIONS:
        raise ValueError(f"Unknown operation `{name:.60}`: this version has {', '.join(sorted(OPERATIONS))}. {LATER}")
    return OPERATIONS[name]


def _required(kind: Kind) -> Attribute:
    return Attribute(kind, required=True)


MOST_INPUTS = 64
MOST_FACTORS = 1 << 16  # of a window of `byte_conv2d`: sums of 255 * 128 times as many fit 32 bits
# The steps of a binary convolution's epilogue that have a value a channel, (out_channels,). The kernel's structure has
# them in this order (`BNN_EPILOGUE` of kernels/csrc/arguments.h): new ones come last, so that plans stay valid. The
# order in which they take effect is that of `epilogue` in frontend/torch_library.py.
EPILOGUE = (
    *("gain", "offset", "scale", "bias", "lift", "slope", "shift", "floor"),
    *("pull", "center", "tap_scale", "tap_offset"),  # of values that lie around centers: see `BinaryLayer`
)
# The tensors of a binary convolution: signs, (out_channels, in_channels / groups, kernel_height, kernel_width), the
# epilogue, and threshold, (in_channels,).
PARTS = ("signs", *EPILOGUE, "threshold")
_WINDOW = {"stride": Attribute("pair", [1, 1]), "padding": Attribute("pair", [0, 0])}
_DILATION = {"dilation": Attribute("pair", [1, 1])}
_POOL = {"kernel_size": _required("pair"), "stride": _required("pair"), "padding": Attribute("pair", [0, 0])}
_CEIL = {"ceil_mode": Attribute("bool", False)}
_REDUCTION = {"dims": _required("ints"), "keepdim": Attribute("bool", False)}
_DIM = {"dim": _required("int")}
_ARITHMETIC = Operation(1, 2, {"other": Attribute("number")})

# `add`, `sub`, `mul` and `div` take two inputs, or one and the number `other`. `conv2d`, `byte_conv2d` and `linear`
# take images or rows, weights (with a scale and the surroundings for bytes), and a bias or none; `binary_conv2d` takes
# a map, and one to add or none.
OPERATIONS: dict[str, Operation] = {
    **dict.fromkeys(("add", "sub", "mul", "div"), _ARITHMETIC),
    **dict.fromkeys(("hardsigmoid", "hardswish", "neg", "relu", "sigmoid", "silu", "tanh", "gelu"), Operation()),
    **dict.fromkeys(
        ("adaptive_avg_pool2d", "adaptive_max_pool2d"), Operation(attributes={"output_size": _required("pair")})
    ),
    "affine": Operation(3, 3),
    "avg_pool2d": Operation(
        attributes={
            **_POOL,
            **_CEIL,
            "count_include_pad": Attribute("bool", True),
            "divisor_override": Attribute("int"),
        }
    ),
    "binary_conv2d": Operation(
        1,
        2,
        {
            "signs": _required("constant"),
            **dict.fromkeys(PARTS[1:], Attribute("constant")),
            "stride": Attribute("pair", [1, 1]),
            "padding": Attribute("quad", [0, 0, 0, 0]),
            **_DILATION,
            "groups": Attribute("int", 1),
            "pad_value": Attribute("int", 0),
            "low": Attribute("number"),
            "high": Attribute("number"),
        },
    ),
    "byte_conv2d": Operation(4, 5, {**_WINDOW, **_DILATION}),
    "cat": Operation(1, MOST_INPUTS, _DIM),
    "clamp": Operation(attributes={"low": Attribute("number"), "high": Attribute("number")}),
    "conv2d": Operation(2, 3, {**_WINDOW, **_DILATION, "groups": Attribute("int", 1)}),
    "dequantize": Operation(2, 2),
    "expand": Operation(attributes={"shape": _required("ints")}),
    # Features of `dims`, whose sizes a scale and a shift have, or none.
    "layer_norm": Operation(1, 3, {"dims": _required("ints"), "eps": Attribute("number", 1e-5)}),
    "leaky_relu": Operation(attributes={"negative_slope": Attribute("number", 0.01)}),
    "linear": Operation(2, 3),
    "log_softmax": Operation(attributes=_DIM),
    "max_pool2d": Operation(attributes={**_POOL, **_DILATION, **_CEIL}),
    **dict.fromkeys(("amax", "mean", "sum"), Operation(attributes=_REDUCTION)),
    "pad": Operation(
        attributes={"padding": _required("ints"), "mode": Attribute("str", "constant"), "value": Attribute("number")}
    ),
    "permute": Operation(attributes={"dims": _required("ints")}),
    "prelu": Operation(2, 2),
    "reshape": Operation(attributes={"shape": _required("ints")}),
    "select": Operation(attributes={**_DIM, "index": _required("int")}),
    "slice": Operation(
        attributes={**_DIM, "start": Attribute("int"), "end": Attribute("int"), "step": Attribute("int", 1)}
    ),
    "softmax": Operation(attributes=_DIM),
    "squeeze": Operation(attributes={"dims": _required("ints")}),
    "transpose": Operation(attributes={"dim0": _required("int"), "dim1": _required("int")}),
    "unsqueeze": Operation(attributes=_DIM),
}
