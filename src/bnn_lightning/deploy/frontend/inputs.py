"""Checks of the inputs of packed layers and networks: their range and shape, and no gradients."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from bnn_lightning.deploy.frontend.torch_fallback import eager

_MOST = 1.5  # amount of a value: resizing overshoots by less; as MOST_VALUE of runtime/csrc/bnn.c
_NO_GRADIENTS = (
    "Packed layers have no gradients: differentiate the trained network, which was given to `pack` or whose checkpoint "
    "was exported."
)


def check_range(images: Tensor) -> bool:
    """Refuse images whose values cannot be those of [0, 1]; return whether they were looked at.

    Raises:
        ValueError: A floating value lies above 1.5 or below -1.5.

    Example:
        >>> check_range(torch.rand(2, 3, 4, 4)), check_range(torch.zeros(2, dtype=torch.uint8))
        (True, False)
        >>> check_range(torch.tensor([0.0, 255.0]))
        Traceback (most recent call last):
        ValueError: Images must be uint8, or floating in [0, 1], got 255: divide by 255, or pass bytes. ...
    """
    if not eager(images) or not images.is_floating_point() or images.numel() == 0 or images.is_meta:
        return False
    low, high = (bound.item() for bound in images.detach().aminmax())
    largest = high if high > _MOST else low
    if abs(largest) > _MOST:
        raise ValueError(
            f"Images must be uint8, or floating in [0, 1], got {largest:g}: divide by 255, or pass bytes. "
            "Normalization is part of the packed network."
        )
    return True


def check_tensor(images: object) -> None:
    """Refuse images that are no tensor.

    Raises:
        TypeError: Names their type.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"Images must be a torch.Tensor, got {type(images).__name__}: torch.from_numpy(images).")


def refuse_jit() -> None:
    """Refuse `torch.jit.trace`, which cannot trace the calls of kernels.

    Raises:
        RuntimeError: It is at work.
    """
    if not torch.compiler.is_compiling() and torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        raise RuntimeError("Packed layers cannot be traced by torch.jit: use `torch.export.export` or `torch.compile`.")


def check_map(size: Sequence[int], kernel_size: Sequence[int], dilation: Sequence[int], padding: Sequence[int]) -> None:
    """Refuse a map that is smaller than a kernel.

    Args:
        size: Height and width of the map.
        kernel_size: Height and width of the kernel.
        dilation: Dilations of rows and columns.
        padding: Above, below, on the left and on the right.

    Raises:
        ValueError: It is.
    """
    if torch.compiler.is_compiling():
        return
    top, bottom, left, right = padding
    padded = (size[0] + top + bottom, size[1] + left + right)
    window = tuple(step * (length - 1) + 1 for step, length in zip(dilation, kernel_size, strict=True))
    if any(length < least for length, least in zip(padded, window, strict=True)):
        raise ValueError(
            f"Maps of {size[0]}x{size[1]}, {padded[0]}x{padded[1]} with padding, are smaller than the kernel "
            f"({window[0]}x{window[1]} with dilation)."
        )


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, *inputs: Tensor) -> Tensor:
        ctx.mark_dirty(output)  # returned as it is, and no view: networks may write into it
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(_NO_GRADIENTS)


def refuse_tangents(*inputs: Tensor) -> None:
    """Refuse forward-mode differentiation, which would give tangents of zeros.

    Raises:
        RuntimeError: An input has a tangent.
    """
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in inputs):  # type: ignore[no-untyped-call]
        raise RuntimeError(_NO_GRADIENTS)


def without_gradient(output: Tensor, *inputs: Tensor) -> Tensor:
    """Return an output whose backward is an error.

    Args:
        output: Computed without autograd.
        inputs: Tensors that it was computed from; one of them requires a gradient.
    """
    return _NoGradient.apply(output, *inputs)  # type: ignore[no-any-return]
