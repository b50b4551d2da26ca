"""Calls of the kernels of functions: of each value by itself, and of classes."""

from bnn_lightning.deploy.kernels.abi import Function
from bnn_lightning.deploy.kernels.call import Address, Count, Field, KernelCall
from bnn_lightning.deploy.kernels.layout import given


def apply_function(
    function: Function, x: Address, out: Address, count: Count, *, a: float = 0.0, b: float = 0.0, node: int = 0
) -> KernelCall:
    """Return the call that maps each value.

    Args:
        function: Function of each element.
        x: Values that are read.
        out: Place of the results, in the same order.
        count: Number of values.
        a: First parameter of the function.
        b: Second parameter of the function.
        node: Number of the value.
    """
    fields: dict[str, Field | None] = {
        "count": count,
        "function": int(function),
        "x": x,
        "out": out,
        "a": a,
        "b": b,
    }
    return KernelCall("unary", given(fields), node)


def softmax(x: Address, out: Address, rows: int, classes: int, *, logarithm: bool, node: int = 0) -> KernelCall:
    """Return the call of a softmax over classes that lie side by side.

    Args:
        x: Values that are read.
        out: Place of the results, in the same order.
        rows: Rows of classes of an image.
        classes: Number of classes.
        logarithm: Whether the logarithm is computed.
        node: Number of the value.
    """
    fields: dict[str, Field | None] = {
        "rows": Count(0, rows),
        "classes": classes,
        "inner": 1,
        "logarithm": int(logarithm),
        "x": x,
        "out": out,
    }
    return KernelCall("softmax", given(fields), node)
