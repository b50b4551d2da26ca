"""The operations of packed layers, known to torch: `torch.export` and `torch.compile` trace them.

`torch.ops.bnn_lightning.pack_activations` and `.binary_conv2d` run in the kernel of this machine or, with the same
integers, in torch.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bnn_lightning.deploy.ir.operations import EPILOGUE
from bnn_lightning.deploy.kernels.abi import Convolution, Packing
from bnn_lightning.deploy.kernels.binary_conv import conv_sizes, pack_sizes, window_offsets
from bnn_lightning.deploy.kernels.layout import out_size
from bnn_lightning.deploy.kernels.library import current_kernel
from bnn_lightning.functional.pack import num_words, pack_activations, unpack_activations, unpack_weight

LIBRARY = torch.library.Library("bnn_lightning", "DEF")  # type: ignore[no-untyped-call]
LIBRARY.define(  # type: ignore[no-untyped-call]
    "pack_activations(Tensor x, Tensor threshold, SymInt groups, SymInt[] padding, bool ones) -> Tensor",
)
LIBRARY.define(  # type: ignore[no-untyped-call]
    "binary_conv2d(Tensor x, Tensor weight, Tensor tap_sums, Tensor?[] epilogue, SymInt out_channels, "
    "SymInt in_channels, SymInt[] kernel_size, SymInt[] stride, SymInt[] dilation, SymInt[] zero_padding, "
    "Tensor? residual=None, float? low=None, float? high=None, bool channels_last=True) -> Tensor",
)
_window_offsets = lru_cache(maxsize=1024)(window_offsets)


# Packing


def _pack(x: Tensor, threshold: Tensor, groups: int, padding: Sequence[int], ones: bool) -> Tensor:
    number, channels, height, width = x.shape
    top, bottom, left, right = padding
    words = num_words(channels // groups)
    kernel = current_kernel() if x.dtype == torch.float32 else None
    shape = (number, height + top + bottom, width + left + right, groups * words)
    if ones:
        full = torch.ones(1, channels, 1, 1, dtype=torch.float32, device=x.device)
        packed = pack_activations(full, groups=groups).expand(shape).contiguous()
    else:
        packed = torch.zeros(shape, dtype=torch.int32, device=x.device)
    if kernel is None or not x.is_cpu:
        values = torch.unflatten(threshold, 0, (groups, -1))[:, : channels // groups].flatten()
        inside = pack_activations(x, values.to(x.dtype), groups=groups)
        packed[:, top : top + height, left : left + width] = inside
        return packed
    threshold = threshold.contiguous()
    sizes = pack_sizes(x.shape[1:], x.stride(), groups, packed.shape[1:], (top, left))
    pointers = {"x": x.data_ptr(), "threshold": threshold.data_ptr(), "bits": packed.data_ptr()}
    kernel.run("pack", Packing(images=number, **sizes, **pointers))
    return packed


def _pack_fake(x: Tensor, threshold: Tensor, groups: int, padding: Sequence[int], ones: bool) -> Tensor:
    number, channels, height, width = x.shape
    top, bottom, left, right = padding
    words = groups * num_words(channels // groups)
    return x.new_empty(number, height + top + bottom, width + left + right, words, dtype=torch.int32)


# Convolution


def _conv(
    x: Tensor,
    weight: Tensor,
    tap_sums: Tensor,
    epilogue: Sequence[Tensor | None],
    out_channels: int,
    in_channels: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    zero_padding: Sequence[int],
    residual: Tensor | None = None,
    low: float | None = None,
    high: float | None = None,
    channels_last: bool = True,
) -> Tensor:
    kernel = current_kernel() if _dtype(epilogue) == torch.float32 else None
    if kernel is None or not x.is_cpu:
        images, signs = _unpacked(x, weight, out_channels, in_channels, kernel_size, zero_padding)
        around = Window(tuple(stride), (0, 0), tuple(dilation), weight.shape[0])
        return convolve(images, signs, around, residual, epilogue, low, high, channels_last=channels_last)
    geometry = (out_channels, in_channels, kernel_size, stride, dilation, zero_padding)
    out = _conv_fake(x, weight, tap_sums, epilogue, *geometry, residual)
    window = ((kernel_size[0], kernel_size[1]), (dilation[0], dilation[1]))
    offsets = _window_offsets(x.shape[2], weight.shape[0], weight.shape[3], *window)
    x = x.contiguous()
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    sizes = _sizes(x, weight, out, in_channels, kernel_size, stride, dilation, zero_padding)
    tensors = {"x": x, "weight": weight, "tap_sums": tap_sums, "residual": residual, "out": out}
    tensors |= dict(zip(EPILOGUE, epilogue, strict=True))
    pointers = {name: tensor.data_ptr() for name, tensor in tensors.items() if tensor is not None}
    pointers["offsets"] = offsets.ctypes.data
    bounds = {"low": -math.inf if low is None else low, "high": math.inf if high is None else high}
    kernel.run("convolve", Convolution(**sizes, **pointers, **bounds))
    return out if channels_last else _laid_out(out, torch.contiguous_format)


def _conv_fake(
    x: Tensor,
    weight: Tensor,
    tap_sums: Tensor,
    epilogue: Sequence[Tensor | None],
    out_channels: int,
    in_channels: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    zero_padding: Sequence[int],
    residual: Tensor | None = None,
    low: float | None = None,
    high: float | None = None,
    channels_last: bool = True,
) -> Tensor:
    height, width = (out_size(x.shape[1 + i], kernel_size[i], stride[i], dilation[i]) for i in (0, 1))
    torch._check(height > 0 and width > 0, lambda: "a map is smaller than the kernel of a binary convolution")
    shape = (x.shape[0], out_channels, height, width)
    if residual is not None:
        _check_addend(residual, shape, _dtype(epilogue))
    return torch.empty(shape, dtype=_dtype(epilogue), device=x.device, memory_format=_format(channels_last))


def _format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def _laid_out(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Return a map in a memory format, with the strides that torch gives one.

    `contiguous` keeps other strides of dimensions of one element, by which torch tells the formats apart, too.
    """
    wanted = torch.empty(x.shape, memory_format=memory_format, device="meta").stride()
    return x if x.stride() == wanted else x.clone(memory_format=memory_format)


def _dtype(epilogue: Sequence[Tensor | None]) -> torch.dtype:
    scale = epilogue[EPILOGUE.index("scale")]
    assert scale is not None
    return scale.dtype


def _check_addend(residual: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Refuse what cannot be added to a result of this shape: kernels trust what they are given."""
    fits = residual.dim() == 4 and residual.dtype == dtype
    torch._check(fits, lambda: f"what is added must be {dtype}, (N, C, H, W), not {residual.dtype}, {residual.dim()}-d")
    for has, wanted in zip(residual.shape, shape, strict=True):
        torch._check(has == wanted, lambda: f"what is added must have the shape {shape}, not {tuple(residual.shape)}")


def _sizes(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    in_channels: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    zero_padding: Sequence[int],
) -> dict[str, int]:
    """Return the whole numbers of a kernel's arguments."""
    groups, _, _, words, _ = weight.shape
    sizes = conv_sizes(
        x.shape[1:3],
        out.shape[2:],
        groups=groups,
        words=words,
        channels=(in_channels, out.shape[1] // groups),
        kernel_size=kernel_size,
        stride=stride,
        dilation=dilation,
    )
    padding = zip(("pad_y", "pad_x", "real_height", "real_width"), zero_padding or (0, 0, 0, 0), strict=True)
    return {"images": x.shape[0], **sizes, **dict(padding)}


# The same in torch


class Window(NamedTuple):
    """Geometry of a convolution.

    Attributes:
        stride: Stride of rows and columns.
        padding: Zeros above and below, on the left and on the right.
        dilation: Dilation of rows and columns.
        groups: Divides both numbers of channels.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def convolve(self, x: Tensor, weight: Tensor, *, groups: int) -> Tensor:
        return F.conv2d(x, weight, None, list(self.stride), list(self.padding), list(self.dilation), groups)


def _unpacked(
    x: Tensor,
    weight: Tensor,
    out_channels: int,
    in_channels: int,
    kernel_size: Sequence[int],
    zero_padding: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Return the padded images, with zeros where they are padded with these, and the weights, as floats."""
    groups = weight.shape[0]
    signs = unpack_weight(weight, out_channels, in_channels, (kernel_size[0], kernel_size[1]))
    images = unpack_activations(x, groups * in_channels, groups=groups)
    if zero_padding:
        pad_y, pad_x, height, width = zero_padding
        # Padding beyond the last window on the far side, or for an even kernel, is asymmetric: pad by hand.
        inside = images[:, :, pad_y : pad_y + height, pad_x : pad_x + width]
        far = (images.shape[2] - pad_y - height, images.shape[3] - pad_x - width)
        images = F.pad(inside, (pad_x, far[1], pad_y, far[0]))
    if images.shape[1] == 1:
        # In the strides of channels_last a single channel makes torch (2.11 to 2.14) read some strided windows wrongly.
        images = images.clone(memory_format=torch.contiguous_format)
    return images, signs


def _taps(images: Tensor, signs: Tensor, window: Window, given: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """Return what the center of the inputs meets at each place: the scaled weights of the taps within the image."""
    inside = (images[:1, :1] != 0).to(signs.dtype)
    taps, factors = (
        window.convolve(inside, weight.sum(1, keepdim=True), groups=1).to(dtype)
        for weight in (signs, torch.ones_like(signs))
    )
    if "tap_scale" in given:
        taps = taps * given["tap_scale"]
    return taps + given["tap_offset"] * factors if "tap_offset" in given else taps


def convolve(
    images: Tensor,
    signs: Tensor,
    window: Window,
    residual: Tensor | None,
    values: Sequence[Tensor | None],
    low: float | None,
    high: float | None,
    *,
    channels_last: bool,
) -> Tensor:
    """Compute in torch the sums of a layer and what follows them.

    Args:
        images: Signs, (N, C, H, W); 0 where they are padded with zeros.
        signs: Weights, (out_channels, in_channels / groups, kernel_height, kernel_width).
        window: Geometry of the layer.
        residual: Addend of the same shape.
        values: Those of `EPILOGUE`, in its order, each group filled up to whole blocks; scale and bias are given.
        low: Lower bound.
        high: Upper bound.
        channels_last: Whether the result is in this format, or contiguous.
    """

    def gather(values: Tensor) -> Tensor:
        return torch.unflatten(values, 0, (groups, -1))[:, : len(signs) // groups].reshape(-1, 1, 1)

    groups = window.groups
    dot = window.convolve(images, signs, groups=groups)  # exact: the sums are whole numbers far below 2^24
    given = {name: gather(value) for name, value in zip(EPILOGUE, values, strict=True) if value is not None}
    scale, bias = given["scale"], given["bias"]
    if residual is not None:
        _check_addend(residual, tuple(dot.shape), scale.dtype)
    t = dot.to(scale.dtype)
    if "gain" in given:
        t = t * given["gain"]
    if "pull" in given:
        ones = window.convolve(images, torch.ones_like(signs[:groups]), groups=groups)
        t = t + given["pull"] * ones.repeat_interleave(len(signs) // groups, 1).to(t.dtype)
    if "center" in given:
        t = t + given["center"] * _taps(images, signs, window, given, t.dtype)
    if "offset" in given:
        t = t + given["offset"]
    if "floor" in given:
        t = torch.where(t < given["floor"], given["floor"], t)
    t = torch.addcmul(bias, t, scale)
    if residual is not None:
        t.add_(residual)
    if "lift" in given:
        t.add_(given["lift"])
    if "slope" in given:
        t = torch.prelu(t, given["slope"].flatten())
    if "shift" in given:
        t.add_(given["shift"])
    if low is not None or high is not None:
        t.clamp_(low, high)
    return _laid_out(t, _format(channels_last))


LIBRARY.impl("pack_activations", _pack, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
LIBRARY.impl("binary_conv2d", _conv, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("bnn_lightning::pack_activations", _pack_fake, lib=LIBRARY)
torch.library.register_fake("bnn_lightning::binary_conv2d", _conv_fake, lib=LIBRARY)
