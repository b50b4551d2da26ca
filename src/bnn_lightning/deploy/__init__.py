"""Trained networks at one bit a weight: packed layers, their kernels, conversion."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "export.c99": ["C99Error", "CSource", "to_c99"],
        "format.container": ["Container", "PackedFileError", "read_container"],
        "format.info": ["PackedInfo"],
        "format.packed_file": ["graph_of", "write_container"],
        "validate.footprint": ["Footprint", "measure_footprint"],
        "kernels.library": ["KernelInfo", "built_kernels", "kernel_info", "supported_kernels"],
        "frontend.capture": ["capture"],
        "frontend.conv_transpose": ["PackedConvTranspose2d"],
        "frontend.layers": ["PackedConv1d", "PackedConv2d", "PackedLinear"],
        "export.onnx": ["OnnxError", "write_onnx"],
        "export.web": ["WebError", "write_web"],
        "validate.parity": ["Comparison", "OtherClass", "Parity"],
        "ir.graph": ["Constant", "ConstantRef", "Graph", "GraphError", "Node", "Value"],
        "validate.baselines": [
            "OnnxNetwork",
            "larq_runner",
            "onnxruntime_runner",
            "openvino_runner",
            "quantize_onnx",
            "torch_runner",
        ],
        "runtime.network": ["LoadedNetwork", "load"],
        "runtime.packed_network": ["PackReport", "PackedNetwork", "pack"],
        "runtime.repack": ["Repacker"],
        "runtime.save": ["FileSizes", "save"],
        "validate.profile": ["Share", "time_shares"],
    },
)
