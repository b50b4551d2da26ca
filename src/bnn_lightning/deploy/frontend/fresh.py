"""Tensors for kernels: dtype and device never depend on torch's process-wide defaults, which anybody may change."""

import torch
from torch import Tensor

CPU = torch.device("cpu")


def floats(*shape: int) -> Tensor:
    """Return uninitialized float32 memory on the CPU."""
    return torch.empty(shape, dtype=torch.float32, device=CPU)


def zeros(*shape: int) -> Tensor:
    """Return zeros in float32 on the CPU."""
    return torch.zeros(shape, dtype=torch.float32, device=CPU)


def strided(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return uninitialized memory on the CPU, laid out in these strides."""
    return torch.empty_strided(shape, strides, dtype=dtype, device=CPU)


def pixels(images: Tensor) -> Tensor:
    """Return images in [0, 1]: those in bytes in float32, others as they are.

    Example:
        >>> pixels(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([0., 1.])
    """
    return images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images
