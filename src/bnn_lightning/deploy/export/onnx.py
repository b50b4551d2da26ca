"""Networks as ONNX, for other runtimes: floats that stay exact where the sums of binary layers are whole numbers."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from bnn_lightning.deploy.export.onnx_rewrite import exact
from bnn_lightning.deploy.frontend.any_number import export_for_any_number
from bnn_lightning.deploy.frontend.capture import TRACING_ERRORS
from bnn_lightning.deploy.frontend.pack import example_images
from bnn_lightning.utils.optional import require

OPSET = 18
_EXTRA = "onnx"


class OnnxError(ValueError):
    """A network cannot be written as ONNX."""


@torch.no_grad()
def write_onnx(model: nn.Module, path: str | Path, example: Tensor | None = None, *, precise: bool = True) -> int:
    """Write a network as an ONNX file: images (N, C, H, W) in [0, 1] in, logits out, any N.

    A binary network stays what it was under the optimizations that runtimes make by default. Weights are floats: for
    one bit a weight there is `save`.

    Args:
        model: A backbone in evaluation, or any network built from our layers, binary or not.
        path: The file to write.
        example: Images that it takes; None makes two of the network's own size.
        precise: As in `exact`: without, single images of thousands get other signs, and then other logits.

    Returns:
        The bytes of the file.

    Raises:
        ModuleNotFoundError: `onnx` or `onnxscript` is not installed.
        OnnxError: The network cannot be traced, or does something that ONNX cannot say.
        ValueError: As of `exact`: a binary layer is not binary yet, or computes in a way of its own.
    """
    for module in ("onnx", "onnxscript"):
        require(module, extra=_EXTRA)
    network = exact(model, precise=precise)
    images = example_images(model, 2) if example is None else example
    if len(images) < 2:
        images = images.expand(2, *images.shape[1:])  # of one image torch makes a constant
    try:
        with quiet_exporter():
            program = torch.onnx.export(
                export_for_any_number(network, images),
                (images,),
                input_names=["images"],
                output_names=["logits"],
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
            assert program is not None
            program.save(str(path), external_data=False)
    except (torch.onnx.OnnxExporterError, TorchDynamoException, *TRACING_ERRORS) as error:
        raise OnnxError(f"{type(model).__name__} cannot be written as ONNX: {first_line(error)}") from error
    return Path(path).stat().st_size


def first_line(error: BaseException) -> str:
    """Return the innermost reason of an exporter's error, which wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Leave out what the exporter tells of each opset version and folded constant, and of its own use of torch."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
