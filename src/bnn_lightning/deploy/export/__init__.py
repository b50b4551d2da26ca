"""Writers of C99, ONNX and web pages."""
