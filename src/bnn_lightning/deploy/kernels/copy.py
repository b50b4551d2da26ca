"""Calls of the kernel that copies between strides."""

from collections.abc import Sequence

from bnn_lightning.deploy.kernels.call import Address, Field, KernelCall
from bnn_lightning.deploy.kernels.layout import IMAGES, given

_DIMENSIONS = 3  # beside that of the images


def copy_strided(
    x: Address,
    out: Address,
    images: tuple[int, int],
    dimensions: Sequence[tuple[int, int, int]],
    *,
    in_bytes: bool = False,
    normalization: Sequence[Address] = (),
    node: int = 0,
) -> KernelCall:
    """Return the call that copies elements.

    Args:
        x: First element that is read.
        out: First element that is written.
        images: Elements from an image to the next, of what is read and what is written.
        dimensions: Size, and the same two strides, of at most three other dimensions.
        in_bytes: Whether bytes are read, in 255ths.
        normalization: Mean and standard deviation of each place of the first of three dimensions; empty is none.
        node: Number of the value.
    """
    filled = [*[(1, 0, 0)] * (_DIMENSIONS - len(dimensions)), *dimensions]
    fields: dict[str, Field | None] = {"images": IMAGES, "x_image": images[0], "out_image": images[1]}
    for place, (size, x_stride, out_stride) in enumerate(filled):
        fields |= {f"size_{place}": size, f"x_{place}": x_stride, f"out_{place}": out_stride}
    fields |= {"bytes": int(in_bytes), "x": x, "out": out, **dict(zip(("mean", "std"), normalization, strict=False))}
    return KernelCall("copy", given(fields), node)
