"""Copies of networks for other runtimes: what they compute does not hang on how a runtime rounds."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.binarizers.base import Binarizer
from bnn_lightning.deploy.frontend.batch_norm import batch_norm_affine
from bnn_lightning.deploy.frontend.layers import input_threshold
from bnn_lightning.deploy.frontend.pack import check_binary, is_plain, replace_layers, why_other
from bnn_lightning.layers.binary import BinaryLayer
from bnn_lightning.layers.conv import BinaryConv1d, BinaryConv2d, BinaryConv3d
from bnn_lightning.layers.conv_transpose import BinaryConvTranspose2d
from bnn_lightning.layers.linear import BinaryLinear
from bnn_lightning.layers.module_utils import binary_layers, copy_network

_KINDS = (BinaryConv1d, BinaryConv2d, BinaryConv3d, BinaryConvTranspose2d, BinaryLinear)
# Most products of a sum in a matrix product that stands for a convolution: onnxruntime adds so many in order.
_PRODUCTS = 128


class _ExactLayer(nn.Module):
    """A binary layer in the operations of ONNX: signs by a comparison, whole sums, then the scale.

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
        filters, scale = layer.weight_binarizer.binarize(layer.filters(layer.weight))
        signs = layer.from_filters(filters)
        self.real_input = layer.input_binarizer is None
        threshold = input_threshold(layer)
        self.register_buffer("signs", signs.detach().clone())
        self.register_buffer("threshold", None if threshold is None else layer_view(threshold.detach(), signs))
        self.register_buffer("scale", None if scale is None else layer.per_channel(scale.detach()).clone())
        self.register_buffer("bias", None if layer.bias is None else layer.per_channel(layer.bias.detach()).clone())
        self.dot = _dot(layer)

    def forward(self, input: Tensor) -> Tensor:
        x = input
        if not self.real_input:
            x = torch.where(x >= (0.0 if self.threshold is None else self.threshold), 1.0, -1.0).to(x.dtype)
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
    if not isinstance(layer, BinaryConv2d):
        return layer.dot

    def convolve(x: Tensor, signs: Tensor) -> Tensor:
        x, padding = layer.pad(x)
        return F.conv2d(x, signs, None, layer.stride, padding, layer.dilation, layer.groups)

    return convolve


def _refuse_centers(name: str, layer: BinaryLayer) -> None:
    """Refuse a layer whose binarizers stand for other values than -1 and +1 times a scale of each output channel.

    Raises:
        ValueError: Names the layer and its binarizer.
    """
    inputs, weights = layer.input_binarizer, layer.weight_binarizer
    affine: Binarizer | None = None
    if inputs is not None and (inputs.scale() is not None or inputs.offset() is not None):
        affine = inputs
    elif weights is not None and weights.offset(layer.filters(layer.weight)) is not None:
        affine = weights
    if affine is not None:
        raise ValueError(
            f"`{name}` cannot be written as ONNX: the values of {type(affine).__name__} lie around a center, which "
            "ONNX does not add. Write a packed file: `bnn export` without `format=onnx`."
        )


def _refuse_other(name: str, layer: BinaryLayer, reason: str) -> None:
    """Refuse a layer with binary inputs that is not computed as an `_ExactLayer` is.

    As it is, runtimes would move a scale into its weights, and sums that are 0 would get a sign.

    Raises:
        ValueError: Names the layer and the reason.
    """
    if reason and layer.input_binarizer is not None:
        raise ValueError(
            f"`{name}` ({type(layer).__name__}) cannot be written as ONNX: {reason}, and other runtimes keep the sums "
            "of plain layers alone exact; compute what it does besides in a module before or behind it."
        )


class _ExactNorm(nn.Module):
    """Batch norm in evaluation with torch's scale and shift, whose product and sum are rounded once, as torch's are.

    In float64 the product of two float32 is exact, and the sum nearly so. Runtimes that multiply and add in float32
    round twice, and those that move the scale into a convolution, in each weight.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale, shift = batch_norm_affine(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
        self.register_buffer("scale", scale.double())
        self.register_buffer("shift", shift.double())

    def forward(self, input: Tensor) -> Tensor:
        channels = [-1, *[1] * (input.dim() - 2)]
        return (input.double() * self.scale.view(channels) + self.shift.view(channels)).to(input.dtype)


class _OrderedConv2d(nn.Module):
    """A convolution of floats that adds by rows, columns and channels, as oneDNN's direct ones do: a matrix product.

    Runtimes have a dozen orders for a convolution, by the shapes and the number of images; along a matrix's columns
    they add from the first to the last.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.register_buffer("weight", conv.weight.detach().permute(0, 2, 3, 1).flatten(1).clone())
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach()[:, None].clone())
        self.margins = list(conv._reversed_padding_repeated_twice)
        self.window, self.stride, self.dilation = conv.kernel_size, conv.stride, conv.dilation

    def forward(self, input: Tensor) -> Tensor:
        x = F.pad(input, self.margins)
        sizes = [
            (length - dilation * (window - 1) - 1) // stride + 1
            for length, window, stride, dilation in zip(
                x.shape[2:], self.window, self.stride, self.dilation, strict=True
            )
        ]
        taps = [
            x[:, :, self._along(0, row, sizes), self._along(1, column, sizes)]
            for row in range(self.window[0])
            for column in range(self.window[1])
        ]
        y = self.weight @ torch.cat(taps, 1).flatten(2)
        return (y if self.bias is None else y + self.bias).view(x.shape[0], -1, *sizes)

    def _along(self, axis: int, tap: int, sizes: list[int]) -> slice:
        first, stride = tap * self.dilation[axis], self.stride[axis]
        return slice(first, first + (sizes[axis] - 1) * stride + 1, stride)


def _is_frozen(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> bool:
    return is_plain(norm, nn.BatchNorm1d, nn.BatchNorm2d) and norm.running_mean is not None


def _is_window(conv: nn.Conv2d) -> bool:
    """Whether it is a convolution such as a stem's: few channels, kernels beyond 1x1."""
    products = conv.weight[0].numel()
    padded = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    own = type(conv)._conv_forward is not nn.Conv2d._conv_forward
    plain = is_plain(conv, nn.Conv2d) and not own and conv.groups == 1 and conv.kernel_size != (1, 1)
    return plain and padded and products <= _PRODUCTS


@torch.no_grad()
def exact(model: nn.Module, *, precise: bool = True) -> nn.Module:
    """Return a copy of a network in evaluation that holds signs, and computes in words that runtimes cannot misread.

    Binary layers give whole sums, batch norms round once, convolutions of floats with few inputs add in one order. What
    runtimes make of that has the signs that torch has for a batch of images. Modules of floats that have a `forward` or
    hooks of their own stay as they are, binary layers with real inputs among them.

    Args:
        model: A backbone, or any network built from our layers; one without binary layers is only copied.
        precise: Without, only the sums of binary layers are exact, and runtimes are some percent faster.

    Raises:
        ValueError: Its binary layers are not binary yet, or one with binary inputs computes in a way of its own.

    Example:
        >>> from bnn_lightning.models import create_backbone
        >>> network = create_backbone("resnet20", num_classes=10, image_size=32).eval()
        >>> images = torch.rand(2, 3, 32, 32)
        >>> torch.allclose(exact(network)(images), network(images), atol=1e-4)
        True
    """
    if binary_layers(model):
        check_binary(model)
        for name, layer in binary_layers(model).items():
            _refuse_centers(name, layer)
    network = copy_network(model).eval()
    layers = binary_layers(network)
    made: dict[int, nn.Module] = {}
    for name, layer in layers.items():
        reason = why_other(layer, *_KINDS)
        _refuse_other(name, layer, reason)
        if not reason:
            made[id(layer)] = _ExactLayer(layer)
    if layers and precise:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and _is_frozen(module):
                made[id(module)] = _ExactNorm(module)
            elif isinstance(module, nn.Conv2d) and _is_window(module):
                made[id(module)] = _OrderedConv2d(module)
    replace_layers(network, made)
    return network.requires_grad_(False)
