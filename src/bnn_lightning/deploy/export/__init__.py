"""Writers of C99 and ONNX."""
