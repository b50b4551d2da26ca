"""Networks as ONNX, for other runtimes: floats that stay exact where the sums of binary layers are whole numbers."""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.deploy.convert import check_binary, example_images
from bnn_lightning.deploy.modules import input_threshold
from bnn_lightning.layers.binary import BinaryLayer
from bnn_lightning.layers.conv import BinaryConv2d
from bnn_lightning.layers.linear import BinaryLinear
from bnn_lightning.layers.tree import binary_layers
from bnn_lightning.utils.optional import require

OPSET = 18
_EXTRA = "onnx"


class OnnxError(ValueError):
    """A network cannot be written as ONNX."""


class _ExactLayer(nn.Module):
    """What a binary layer computes, in the words of ONNX: signs by a comparison, whole sums, then the scale.

    The sums are rounded, which changes nothing: they are whole numbers. But between a rounding and the scale no runtime
    moves the scale into the weights, as onnxruntime's ConvMulFusion and ConvBNFusion do where a convolution is followed
    by a scale or a batch norm. Sums that are exactly 0 would become 1e-9 or -1e-9, and the next sign another one.
    """

    signs: Tensor
    threshold: Tensor | None
    scale: Tensor | None
    bias: Tensor | None

    def __init__(self, layer: BinaryLayer) -> None:
        super().__init__()
        assert layer.weight_binarizer is not None
        signs, scale = layer.weight_binarizer.binarize(layer.weight)
        self.real_input = layer.input_binarizer is None
        threshold = input_threshold(layer)
        self.register_buffer("signs", signs.detach().clone())
        self.register_buffer("threshold", None if threshold is None else layer_view(threshold.detach(), signs))
        self.register_buffer("scale", None if scale is None else layer.per_channel(scale.detach()).clone())
        self.register_buffer("bias", None if layer.bias is None else layer.per_channel(layer.bias.detach()).clone())
        self.dot = _dot(layer)

    def forward(self, x: Tensor) -> Tensor:
        if not self.real_input:
            x = torch.where(x >= (0.0 if self.threshold is None else self.threshold), 1.0, -1.0)
        y = self.dot(x, self.signs)
        y = y if self.real_input else y.round()
        y = y if self.scale is None else y * self.scale
        return y if self.bias is None else y + self.bias


def layer_view(values: Tensor, weight: Tensor) -> Tensor:
    """View (in_channels,) values so that they broadcast against the input of a layer with this weight."""
    return values.view(-1, *[1] * (weight.dim() - 2))


def _dot(layer: BinaryLayer) -> Callable[[Tensor, Tensor], Tensor]:
    if isinstance(layer, BinaryLinear):
        return F.linear
    assert isinstance(layer, BinaryConv2d)
    margins, value = list(layer._reversed_padding_repeated_twice), layer.pad_value
    stride, padding, dilation, groups = layer.stride, layer.padding, layer.dilation, layer.groups

    def convolve(x: Tensor, signs: Tensor) -> Tensor:
        if value == 0.0 or not any(margins):
            return F.conv2d(x, signs, None, stride, padding, dilation, groups)
        return F.conv2d(F.pad(x, margins, value=value), signs, None, stride, 0, dilation, groups)

    return convolve


@torch.no_grad()
def exact(model: nn.Module) -> nn.Module:
    """Return a copy of a network in evaluation whose binary layers hold signs, and compute as ONNX can say it.

    Args:
        model: A backbone, or any network built from our layers; one without binary layers is only copied.

    Raises:
        ValueError: Its binary layers are not binary yet.

    Example:
        >>> from bnn_lightning.models import create_backbone
        >>> network = create_backbone("resnet20", num_classes=10, image_size=32).eval()
        >>> images = torch.rand(2, 3, 32, 32)
        >>> torch.allclose(exact(network)(images), network(images), atol=1e-4)
        True
    """
    if binary_layers(model):
        check_binary(model)
    network = copy.deepcopy(model).eval()
    made = {id(layer): _ExactLayer(layer) for layer in binary_layers(network).values()}
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in made:
                parent._modules[name] = made[id(child)]
    return network.requires_grad_(False)


@torch.no_grad()
def write_onnx(model: nn.Module, path: str | Path, example: Tensor | None = None) -> int:
    """Write a network as an ONNX file: images (N, C, H, W) in [0, 1] in, logits out, any N.

    A binary network stays what it was under the optimisations that runtimes make by default. Weights are floats: for
    one bit a weight there is `save`.

    Args:
        model: A backbone in evaluation, or any network built from our layers, binary or not.
        path: Of the file.
        example: Images that it takes; None makes two of the network's own size.

    Returns:
        The bytes of the file.

    Raises:
        ModuleNotFoundError: `onnx` or `onnxscript` is not installed.
        OnnxError: The network cannot be traced, or does something that ONNX cannot say.
        ValueError: The network's binary layers are not binary yet.
    """
    for module in ("onnx", "onnxscript"):
        require(module, extra=_EXTRA)
    network = exact(model)
    images = example_images(model, 2) if example is None else example
    if len(images) < 2:
        images = images.expand(2, *images.shape[1:])  # of one image torch makes a constant
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
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
    except (torch.onnx.OnnxExporterError, RuntimeError, TypeError, ValueError) as error:
        raise OnnxError(f"{type(model).__name__} cannot be written as ONNX: {first_line(error)}") from error
    return Path(path).stat().st_size


def first_line(error: BaseException) -> str:
    """Return the innermost reason of an exporter's error, which wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    # The exporter tells of each opset version that it passes, and warns of its own use of torch.
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
