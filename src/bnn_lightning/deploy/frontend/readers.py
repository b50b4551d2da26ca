"""Readers of torch's operations: from all arguments by name to an operation, its inputs, and its attributes."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from torch import fx

from bnn_lightning.deploy.ir.graph import AttributeValue, GraphError, Input
from bnn_lightning.deploy.ir.operations import OPERATIONS


class Captured(Protocol):
    """A network that is captured."""

    def input(self, item: Any) -> Input:
        """Return a tensor that an operation reads."""


Call = tuple[str, list[Input], dict[str, AttributeValue | None]]
Reader = Callable[[Captured, dict[str, Any]], Call]


def _reader(
    operation: str,
    inputs: tuple[str, ...] = ("self",),
    attributes: Mapping[str, str] = MappingProxyType({}),
    fixed: Mapping[str, Any] = MappingProxyType({}),
) -> Reader:
    """Return what reads a call whose arguments are an operation's inputs and attributes under other names.

    Args:
        operation: Its name.
        inputs: Arguments that are tensors.
        attributes: Attributes by name, and the arguments that they are read from.
        fixed: Arguments that an operation does not have, and the value that they must have.
    """

    def read(capture: Captured, given: dict[str, Any]) -> Call:
        for name, wanted in fixed.items():
            if given[name] != wanted:
                raise GraphError(f"`{operation}` with {name}={given[name]} cannot be written to a packed file.")
        tensors = [capture.input(given[name]) for name in inputs if given[name] is not None]
        return operation, tensors, {name: _plain(operation, name, given[key]) for name, key in attributes.items()}

    return read


def _same(*names: str) -> dict[str, str]:
    """Return attributes that arguments have the names of."""
    return {name: name for name in names}


def _arithmetic(operation: str) -> Reader:
    def read(capture: Captured, given: dict[str, Any]) -> Call:
        left, right = given["self"], given["other"]
        if given.get("alpha", 1) != 1:
            raise GraphError(f"`{operation}` with alpha={given['alpha']} cannot be written to a packed file.")
        if isinstance(right, int | float):
            return operation, [capture.input(left)], {"other": right}
        if isinstance(left, int | float) and not right.meta["val"].is_floating_point():
            raise GraphError(f"`{operation}` of {left} and whole numbers cannot be written to a packed file.")
        return operation, [capture.input(left), capture.input(right)], {}

    return read


def _reversed(operation: str) -> Reader:
    """Return what reads an operation of a number and a tensor: `1 - x`, `1 / x`."""

    def read(capture: Captured, given: dict[str, Any]) -> Call:
        if given.get("alpha", 1) != 1:
            raise GraphError(f"`{operation}` with alpha={given['alpha']} cannot be written to a packed file.")
        return operation, [capture.input(given.get("other", 1)), capture.input(given["self"])], {}

    return read


def _cat(capture: Captured, given: dict[str, Any]) -> Call:
    return "cat", [capture.input(item) for item in given["tensors"]], {"dim": given["dim"]}


def _clamp(low: str, high: str) -> Reader:
    def read(capture: Captured, given: dict[str, Any]) -> Call:
        bounds = {"low": given[low], "high": given[high]}
        if any(isinstance(bound, fx.Node) for bound in bounds.values()):
            raise GraphError("`clamp` to a size of the images cannot be written to a packed file.")
        free = {"low": -math.inf, "high": math.inf}
        return "clamp", [capture.input(given["self"])], {k: None if v == free[k] else v for k, v in bounds.items()}

    return read


def _relu6(capture: Captured, given: dict[str, Any]) -> Call:
    return "clamp", [capture.input(given["self"])], {"low": 0.0, "high": 6.0}


def _expand(capture: Captured, given: dict[str, Any]) -> Call:
    known = [-1 if isinstance(size, fx.Node) else int(size) for size in given["size"]]  # the images keep their number
    return "expand", [capture.input(given["self"])], {"shape": known}


def _pool(operation: str, *more: str) -> Reader:
    attributes = {name: name for name in ("kernel_size", "stride", "padding", *more)}
    read = _reader(operation, ("self",), attributes)
    return lambda capture, given: read(capture, given | {"stride": given["stride"] or given["kernel_size"]})


def _layer_norm(capture: Captured, given: dict[str, Any]) -> Call:
    tensors = [capture.input(given[name]) for name in ("input", "weight", "bias") if given[name] is not None]
    if given["weight"] is None and given["bias"] is not None:
        raise GraphError("A layer norm with a bias and no weight cannot be written to a packed file.")
    dims = list(range(-len(given["normalized_shape"]), 0))
    return "layer_norm", tensors, {"dims": dims, "eps": float(given["eps"])}


def _squeeze(capture: Captured, given: dict[str, Any]) -> Call:
    dims = given["dim"] if isinstance(given["dim"], list | tuple) else [given["dim"]]
    return "squeeze", [capture.input(given["self"])], {"dims": list(dims)}


def _transposed(capture: Captured, given: dict[str, Any]) -> Call:
    return "transpose", [capture.input(given["self"])], {"dim0": 0, "dim1": 1}


def _reshape(capture: Captured, given: dict[str, Any]) -> Call:
    if given["size"].count(-1) > 1:
        raise GraphError("A view with more than one size of the number of images cannot be written to a packed file.")
    return "reshape", [capture.input(given["self"])], {"shape": given["size"]}


def _plain(operation: str, name: str, value: Any) -> AttributeValue | None:
    """Return an attribute as graphs hold it."""
    kind = OPERATIONS[operation].attributes[name].kind
    items = value if isinstance(value, list | tuple) else [value]
    if value is not None and not all(isinstance(item, bool | int | float | str) for item in items):
        raise GraphError(f"`{operation}` with {name}={value} cannot be written to a packed file: it holds constants.")
    if value is None or kind not in ("ints", "pair", "quad"):
        return value  # type: ignore[no-any-return]
    return list(items) * 2 if kind == "pair" and len(items) == 1 else list(items)


_FIXED = {"dtype": None}
READERS: dict[str, Reader] = {
    **{f"{name}.{kind}": _arithmetic(name) for name in ("add", "sub", "mul", "div") for kind in ("Tensor", "Scalar")},
    **{name: _reader(name) for name in ("hardsigmoid", "hardswish", "neg", "relu", "sigmoid", "silu", "tanh")},
    **{name: _reader(name, attributes=_same("output_size")) for name in ("adaptive_avg_pool2d", "adaptive_max_pool2d")},
    **{name: _reader("amax", attributes={"dims": "dim", "keepdim": "keepdim"}) for name in ("amax", "max.dim")},
    "avg_pool2d": _pool("avg_pool2d", "ceil_mode", "count_include_pad", "divisor_override"),
    "cat": _cat,
    "clamp": _clamp("min", "max"),
    "conv2d": _reader("conv2d", ("input", "weight", "bias"), _same("stride", "padding", "dilation", "groups")),
    "expand": _expand,
    "gelu": _reader("gelu", fixed={"approximate": "none"}),
    "hardtanh": _clamp("min_val", "max_val"),
    "layer_norm": _layer_norm,
    "leaky_relu": _reader("leaky_relu", attributes=_same("negative_slope")),
    "linear": _reader("linear", ("input", "weight", "bias")),
    "log_softmax.int": _reader("log_softmax", attributes=_same("dim"), fixed=_FIXED),
    "max_pool2d": _pool("max_pool2d", "dilation", "ceil_mode"),
    "mean.dim": _reader("mean", attributes={"dims": "dim", "keepdim": "keepdim"}, fixed=_FIXED),
    "pad": _reader("pad", attributes={"padding": "pad", "mode": "mode", "value": "value"}),
    "permute": _reader("permute", attributes=_same("dims")),
    "prelu": _reader("prelu", ("self", "weight")),
    "reciprocal": _reversed("div"),
    "relu6": _relu6,
    "rsub.Scalar": _reversed("sub"),
    "select.int": _reader("select", attributes=_same("dim", "index")),
    "slice.Tensor": _reader("slice", attributes=_same("dim", "start", "end", "step")),
    "softmax.int": _reader("softmax", attributes=_same("dim"), fixed=_FIXED),
    "squeeze.dim": _squeeze,
    "squeeze.dims": _squeeze,
    "sum.dim_IntList": _reader("sum", attributes={"dims": "dim", "keepdim": "keepdim"}, fixed=_FIXED),
    "t": _transposed,
    "transpose.int": _reader("transpose", attributes=_same("dim0", "dim1")),
    "unsqueeze": _reader("unsqueeze", attributes=_same("dim")),
    "view": _reshape,
}
