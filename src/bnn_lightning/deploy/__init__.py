"""Trained networks at one bit a weight: packed layers, their kernels, conversion."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "c99": ["C99Error", "CSource", "to_c99"],
        "container": ["Container", "PackedFileError", "read_container", "write_container"],
        "convert": ["PackReport", "PackedNetwork", "pack"],
        "footprint": ["Footprint", "measure_footprint"],
        "kernels": ["KernelInfo", "built_kernels", "kernel_info", "supported_kernels"],
        "lowering": ["Lowered", "LoweringError", "lower"],
        "modules": ["PackedConv2d", "PackedLinear"],
        "onnx": ["OnnxError", "write_onnx"],
        "parity": ["Comparison", "OtherClass", "Parity"],
        "program": ["Program", "Step", "Stored", "Value"],
        "repack": ["Repacker"],
        "rivals": [
            "OnnxNetwork",
            "larq_runner",
            "onnxruntime_runner",
            "openvino_runner",
            "quantize_onnx",
            "torch_runner",
        ],
        "runtime": ["FileSizes", "LoadedNetwork", "PackedInfo", "load", "save"],
        "shares": ["Share", "time_shares"],
    },
)
