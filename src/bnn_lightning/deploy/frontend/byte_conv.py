"""A convolution of images in bytes with weights in int8, in torch: sums are whole numbers, the same everywhere."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bnn_lightning.deploy.kernels.layout import out_size


def pixels_in_bytes(x: Tensor) -> Tensor:
    """Return images in [0, 1] in 255ths: the nearest whole number from 0 to 255; NaN is 0.

    Example:
        >>> pixels_in_bytes(torch.tensor([0.0, 0.5, 2.0, 200 / 255]))
        tensor([  0., 128., 255., 200.])
    """
    return (x * 255).nan_to_num(nan=0.0).clamp(0, 255).round()


def byte_conv2d(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    around: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
) -> Tensor:
    """Convolve images in bytes: `bias + scale * sum of weight * (pixel - around)` over what lies in the image.

    Args:
        x: Images in [0, 1], (N, C, H, W); taken in 255ths.
        weight: int8, (out_channels, C, kernel_height, kernel_width).
        scale: Shape (out_channels,).
        around: Shape (C,): what pixels are compared with, in 255ths; 255 * mean where images were normalized. What lies
            around the image counts as that: it is zero after the normalization.
        bias: Shape (out_channels,), or None.
        stride: Strides of rows and columns.
        padding: Pixels on both sides of rows and columns.
        dilation: Dilations of rows and columns.

    Raises:
        ValueError: The weights are not int8, or shapes do not fit.
    """
    if weight.dtype != torch.int8 or weight.dim() != 4:
        raise ValueError(f"Weights for bytes must be int8 in four dimensions, got {weight.dtype}, {weight.dim()}.")
    outputs, inputs = weight.shape[:2]
    shapes = [tuple(tensor.shape) for tensor in (scale, around, scale if bias is None else bias)]
    if shapes != [(outputs,), (inputs,), (outputs,)]:
        raise ValueError(
            f"Scale, surroundings and bias of the shapes {shapes} do not fit {outputs} x {inputs} channels."
        )
    # Whole numbers below 2^53 are exact in float64, whatever the order of additions.
    values, whole = pixels_in_bytes(x).double(), weight.double()
    sums = F.conv2d(values, whole, None, list(stride), list(padding), list(dilation)).round()
    rows, columns = (
        _inside_of(x.shape[2 + i], weight.shape[2 + i], stride[i], padding[i], dilation[i], device=weight.device)
        for i in (0, 1)
    )
    taps = (whole * around.double().view(-1, 1, 1)).sum(1)
    offset = -scale.double().view(-1, 1, 1) * (rows @ (taps @ columns.t()))
    offset = offset if bias is None else offset + bias.double().view(-1, 1, 1)
    return sums.to(x.dtype) * scale.to(x.dtype).view(-1, 1, 1) + offset.to(x.dtype)


def _inside_of(size: int, kernel: int, stride: int, padding: int, dilation: int, device: torch.device) -> Tensor:
    """Return which taps of each window lie in the image: (windows, kernel), 1 and 0 in float64."""
    number = out_size(size + 2 * padding, kernel, stride, dilation)
    windows = torch.arange(number, dtype=torch.int64, device=device) * stride - padding
    places = windows[:, None] + torch.arange(kernel, dtype=torch.int64, device=device) * dilation
    return ((places >= 0) & (places < size)).double()
