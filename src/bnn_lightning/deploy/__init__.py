"""Trained networks at one bit a weight: packed layers, their kernels, conversion."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "convert": ["PackReport", "PackedNetwork", "pack"],
        "kernels": ["KernelInfo", "built_kernels", "kernel_info", "supported_kernels"],
        "modules": ["PackedConv2d", "PackedLinear"],
    },
)
