"""Calls of kernels that read between strides: functions of two values, and reductions."""

from collections.abc import Sequence

from bnn_lightning.deploy.kernels.abi import Pair
from bnn_lightning.deploy.kernels.call import Address, Count, Field, KernelCall
from bnn_lightning.deploy.kernels.layout import IMAGES, given

MOST_PAIRED = 3  # dimensions of a function of two values, beside that of the images
MOST_KEPT, MOST_REDUCED = 2, 3  # the same of a reduction


def combine_pairs(
    function: Pair,
    x: Address,
    y: Address,
    out: Address,
    images: tuple[int, int],
    dimensions: Sequence[tuple[int, int, int]],
    *,
    count: Count = IMAGES,
    node: int = 0,
) -> KernelCall:
    """Return the call of a function of two values; the result is dense.

    Args:
        function: Function that is computed.
        x: First element of the left operand.
        y: First element of the right one.
        out: First element of the result.
        images: Elements from an image to the next, of both operands; 0 repeats.
        dimensions: Size, and the same two strides, of at most three other dimensions, the innermost last.
        count: Number of images.
        node: Number of the value.
    """
    filled = [*[(1, 0, 0)] * (MOST_PAIRED - len(dimensions)), *dimensions]
    fields: dict[str, Field | None] = {"images": count, "x_image": images[0], "y_image": images[1]}
    for place, (size, x_stride, y_stride) in enumerate(filled):
        fields |= {f"size_{place}": size, f"x_{place}": x_stride, f"y_{place}": y_stride}
    return KernelCall("binary", given({**fields, "function": int(function), "x": x, "y": y, "out": out}), node)


def reduce_dimensions(
    x: Address,
    out: Address,
    image: int,
    kept: Sequence[tuple[int, int]],
    reduced: Sequence[tuple[int, int]],
    *,
    factor: float = 1.0,
    maximum: bool = False,
    count: Count = IMAGES,
    node: int = 0,
) -> KernelCall:
    """Return the call of sums or maxima over dimensions; the result is dense.

    Args:
        x: First element that is read.
        out: First element of the result.
        image: Elements from an image to the next.
        kept: Size and stride of at most two dimensions, the innermost last.
        reduced: The same of at most three that are reduced.
        factor: Number that sums are multiplied by.
        maximum: Whether the largest element is taken instead.
        count: Number of images.
        node: Number of the value.
    """
    fields: dict[str, Field | None] = {"images": count, "x_image": image, "maximum": int(maximum), "factor": factor}
    for place, (size, stride) in enumerate([*[(1, 0)] * (MOST_KEPT - len(kept)), *kept]):
        fields |= {f"size_{place}": size, f"x_{place}": stride}
    for place, (size, stride) in enumerate([*[(1, 0)] * (MOST_REDUCED - len(reduced)), *reduced]):
        fields |= {f"sum_{place}": size, f"by_{place}": stride}
    return KernelCall("reduce", given({**fields, "x": x, "out": out}), node)
