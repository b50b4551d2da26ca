"""Real-valued layers on the project's own kernels: convolution and linear layer.

Each computes what torch does, and computes it with torch where there is no kernel or the input is not float32 on the
CPU. A convolution rounds as oneDNN's direct ones do, a linear layer adds in another order than torch's. `job` makes the
kernel's structure for given tensors: a plan asks for it once, and runs it again and again. Maps are channels_last.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.deploy.frontend.fresh import count, floats, pixels, zeros
from bnn_lightning.deploy.frontend.torch_library import out_size
from bnn_lightning.deploy.kernels.abi import WORKERS, Linear, RealConvolution
from bnn_lightning.deploy.kernels.layout import (
    Activation,
    blocked,
    channels_last,
    kernel_for,
    new_map,
    pointer,
    unblocked,
)
from bnn_lightning.deploy.kernels.pool import Pool2d
from bnn_lightning.functional.pack import BLOCK, num_blocks, spread

_ROOM = 1 << 14  # floats of a band: as many as caches hold beside the weights
_WORK = 1 << 16  # floats of the map before maxima that a worker keeps
_SHARES = 4  # bands of an image at least: threads take them by turns
_LINE, _SLACK = 64, 4  # LINE of conv2d.c; bytes of a word that may lie behind a band


class RealConv2d(nn.Module):
    """A real convolution with what stands around it; of images in bytes, too, which are taken in 255ths.

    That is bias, affine map, addition, PReLU, shift and clamp behind it, and a normalisation or 2x2 averages before it.

    Args:
        weight: Shape (out_channels, in_channels, kernel_height, kernel_width).
        bias: Shape (out_channels,), or None.
        stride: Of rows and columns.
        padding: Of rows and columns, on both sides.
        dilation: Of rows and columns.
        affine: Scale and shift, (out_channels,) each, of what follows the bias; None is nothing.
        normalisation: Mean and standard deviation, (in_channels,) each, of the input; None: it is taken as it is.
        pool: 2 averages the input over 2x2 first (what there is of it at an odd side); only before a 1x1 kernel.
        activation: See `Activation`; None is nothing.
        maxima: Maxima of windows that follow, in the same pass.

    Raises:
        ValueError: Averages before another kernel than 1x1.

    Example:
        >>> layer = RealConv2d(torch.ones(4, 3, 1, 1), None, pool=2)
        >>> layer(torch.ones(1, 3, 4, 4)).shape
        torch.Size([1, 4, 2, 2])
    """

    weight: Tensor
    bias: Tensor | None
    gain: Tensor | None
    offset: Tensor | None
    mean: Tensor | None
    std: Tensor | None
    _room, _size = _ROOM, 4  # elements of a band, and their bytes

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        affine: tuple[Tensor, Tensor] | None = None,
        normalisation: tuple[Tensor, Tensor] | None = None,
        pool: int = 1,
        activation: Activation | None = None,
        maxima: Pool2d | None = None,
    ) -> None:
        super().__init__()
        self.out_channels, self.in_channels = weight.shape[0], weight.shape[1]
        self.kernel_size = (weight.shape[2], weight.shape[3])
        if pool not in (1, 2) or (pool == 2 and self.kernel_size + stride + padding != (1, 1, 1, 1, 0, 0)):
            raise ValueError(f"`pool` must be 1, or 2 before a plain 1x1 convolution, got {pool}.")
        self.stride, self.padding, self.dilation, self.pool = stride, padding, dilation, pool
        self.activation = Activation(self.out_channels) if activation is None else activation
        self.maxima = maxima
        self.register_buffer("weight", blocked(weight.detach().float().permute(0, 2, 3, 1).flatten(1)))
        for name, values in zip(("bias", "gain", "offset"), (bias, *(affine or (None, None))), strict=True):
            self.register_buffer(name, None if values is None else spread(values.detach().float()))
        for name, values in zip(("mean", "std"), normalisation or (None, None), strict=True):
            self.register_buffer(name, None if values is None else values.detach().float().contiguous())
        self._offsets: dict[tuple[int, ...], Tensor] = {}

    def map_shape(self, shape: Sequence[int]) -> tuple[int, int, int, int]:
        """Return the shape of the convolution's own result for an input of this shape."""
        height, width = (-(-size // self.pool) for size in shape[2:])
        sizes = [
            out_size(size + 2 * self.padding[i], self.kernel_size[i], self.stride[i], self.dilation[i])
            for i, size in enumerate((height, width))
        ]
        return shape[0], self.out_channels, sizes[0], sizes[1]

    def out_shape(self, shape: Sequence[int]) -> tuple[int, int, int, int]:
        """Return the shape of the result for an input of this shape."""
        own = self.map_shape(shape)
        return own if self.maxima is None else self.maxima.out_shape(own)

    def band(self, shape: Sequence[int], *, copied: bool = False) -> int | None:
        """Return how many rows of the result are computed from a copy: 0 if none is needed, None if it is not native.

        Args:
            shape: Of the input.
            copied: The input is bytes, and copied in any case.
        """
        if self.maxima is not None and not self.maxima.is_native:
            return None
        copied = copied or any(self.padding) or self.pool == 2 or self.mean is not None or self.maxima is not None
        if not copied:
            return 0
        _, _, height, width = self.map_shape(shape)
        (rows, columns), (step, _) = self._reach(width), self.stride
        fits = (self._room // (columns * self.in_channels) - rows) // step + 1
        fits = min(max(fits, 1), -(-height // _SHARES))
        if self.maxima is not None:
            lines = self.maxima.kernel_size[0]
            fits = max(lines - 1, 1, min(fits, _WORK // (2 * width * num_blocks(self.out_channels) * BLOCK)))
        return fits

    def work_size(self, shape: Sequence[int], *, copied: bool = False) -> int:
        """Return the bytes that each worker needs: the rows that it copies, and rows of the map before maxima."""
        (_, channels, _, width), band = self.map_shape(shape), self.band(shape, copied=copied)
        if not band:
            return 0
        rows, columns = self._reach(width)
        copy = ((band - 1) * self.stride[0] + rows) * columns * self.in_channels * self._size + _SLACK
        lines = 0 if self.maxima is None else 2 * band * width * num_blocks(channels) * BLOCK * 4
        return -(-copy // _LINE) * _LINE + -(-lines // _LINE) * _LINE

    def work(self, shape: Sequence[int], *, copied: bool = False) -> Tensor | None:
        """Return new memory for all workers, None if the kernel needs none."""
        size = self.work_size(shape, copied=copied)
        return floats(WORKERS * size // 4) if size else None

    def reads(self, x: Tensor) -> bool:
        """Whether the kernel takes an input as it lies in memory, without channels side by side."""
        return x.stride(3) == 1 and x.stride(1) != 1 and self.pool == 1 and self.in_channels <= 4

    def readable(self, x: Tensor) -> Tensor:
        """Return the input as the kernel takes it."""
        return x if self.reads(x) else channels_last(x)

    def job(
        self, x: Tensor, out: Tensor | None, residual: Tensor | None = None, work: Tensor | None = None
    ) -> RealConvolution:
        """Return what the kernel is given: `x` as `readable` returns it, the others in the channels_last format.

        Args:
            x: The input.
            out: For the result, if it is wanted.
            residual: What is added.
            work: Memory of all workers, `work_size` bytes each.
        """
        number, channels, height, width = x.shape
        band = self.band(x.shape, copied=x.dtype == torch.uint8)
        assert band is not None
        job = RealConvolution(
            images=number,
            channels=channels,
            height=height,
            width=width,
            kernel_height=self.kernel_size[0],
            kernel_width=self.kernel_size[1],
            stride_y=self.stride[0],
            stride_x=self.stride[1],
            dilation_y=self.dilation[0],
            dilation_x=self.dilation[1],
            pad_y=self.padding[0],
            pad_x=self.padding[1],
            x_image=x.stride(0),
            x_channel=1 if channels == 1 else x.stride(1),
            x_y=x.stride(2),
            x_x=x.stride(3),
            pool=self.pool,
            band=band,
            factors=self.weight.shape[1],
            x=x.data_ptr(),
            bytes=int(x.dtype == torch.uint8),
            weight=self.weight.data_ptr(),
            bias=pointer(self.bias),
            gain=pointer(self.gain),
            offset=pointer(self.offset),
            residual=pointer(residual),
            mean=pointer(self.mean),
            std=pointer(self.std),
            offsets=self._places(x, band).data_ptr(),
            work=pointer(work),
            work_size=self.work_size(x.shape, copied=x.dtype == torch.uint8),
        )
        self._ends(job, x.shape, out)
        return job

    def tables(self) -> list[Tensor]:
        """Return what jobs read beside the buffers."""
        return list(self._offsets.values())

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Map (N, in_channels, H, W), and what is added, to (N, out_channels, H', W'), in the channels_last format."""
        kernel = kernel_for(x, residual)
        mixed = residual is not None and self.maxima is not None
        if kernel is None or mixed or self.band(x.shape) is None:
            return self._in_torch(x, residual)
        x = self.readable(x)
        residual = None if residual is None else channels_last(residual)
        out = new_map(*self.out_shape(x.shape))
        work = self.work(x.shape)
        kernel.run("real_convolve", self.job(x, out, residual, work))
        return out

    def _ends(self, job: RealConvolution, shape: Sequence[int], out: Tensor | None) -> None:
        """Say what follows the sums, and where results go."""
        _, _, height, width = self.map_shape(shape)
        if self.maxima is None:
            job.after = self.activation.after(out, height, width)
            return
        job.inner = self.activation.after(None, height, width)
        job.inner.channels = job.inner.out_channels = num_blocks(self.out_channels) * BLOCK
        job.maxima = self.maxima.windows()
        job.after = self.maxima.activation.after(out, *self.out_shape(shape)[2:])

    def _in_torch(self, x: Tensor, residual: Tensor | None) -> Tensor:
        dense = unblocked(self.weight, self.out_channels)
        weight = torch.unflatten(dense, 1, (*self.kernel_size, self.in_channels)).permute(0, 3, 1, 2)
        x = pixels(x)
        x = F.avg_pool2d(x, 2, ceil_mode=True) if self.pool == 2 else x
        if self.mean is not None and self.std is not None:
            x = (x - self.mean.view(-1, 1, 1).to(x.dtype)) / self.std.view(-1, 1, 1).to(x.dtype)
        bias, gain, offset = (
            None if values is None else values[: self.out_channels].to(x.dtype)
            for values in (self.bias, self.gain, self.offset)
        )
        t = F.conv2d(x, weight.to(x.dtype), bias, self.stride, self.padding, self.dilation)
        if gain is not None and offset is not None:
            t = torch.addcmul(offset.view(-1, 1, 1), t, gain.view(-1, 1, 1))
        return self._followed(t if residual is None else t + residual)

    def _followed(self, t: Tensor) -> Tensor:
        t = self.activation(t)
        t = t if self.maxima is None else self.maxima(t)
        return t.contiguous(memory_format=torch.channels_last)

    def _reach(self, width: int) -> tuple[int, int]:
        """Return the rows of a window, and the columns of a row of windows."""
        rows, columns = ((self.kernel_size[i] - 1) * self.dilation[i] + 1 for i in (0, 1))
        return rows, columns + (width - 1) * self.stride[1]

    def _places(self, x: Tensor, band: int) -> Tensor:
        """Return how far each factor of a window lies from its beginning, in x or in a band of it."""
        if band:
            window, columns = self._reach(self.map_shape(x.shape)[3])
            rows = (band - 1) * self.stride[0] + window
            planar = self.mean is not None or (x.stride(1) != 1 and x.shape[1] > 1)
            strides = (rows * columns, columns, 1) if planar else (1, columns * self.in_channels, self.in_channels)
        else:
            strides = (x.stride(1), x.stride(2), x.stride(3))
        if strides not in self._offsets:
            far = [count(self.kernel_size[i]) * self.dilation[i] * strides[i + 1] for i in (0, 1)]
            channels = count(self.in_channels) * strides[0]
            self._offsets[strides] = (far[0][:, None, None] + far[1][:, None] + channels).flatten().to(torch.int32)
        return self._offsets[strides]


class RowLinear(nn.Module):
    """A linear layer, with weights in float32, or in int8 times a scale of each output.

    Args:
        weight: Shape (out_features, in_features), float32 or int8.
        bias: Shape (out_features,), or None.
        scale: Shape (out_features,); needed for int8.
        activation: See `Activation`.

    Example:
        >>> RowLinear(torch.ones(2, 3, dtype=torch.int8), None, scale=torch.tensor([1.0, 0.5]))(torch.ones(1, 3))
        tensor([[3.0000, 1.5000]])
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        scale: Tensor | None = None,
        activation: Activation | None = None,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        if (weight.dtype == torch.int8) != (scale is not None):
            raise ValueError("`scale` belongs to int8 weights, and to these alone.")
        self.activation = Activation(self.out_features) if activation is None else activation
        bias = zeros(self.out_features) if bias is None else bias
        self.register_buffer("weight", blocked(weight.detach()))
        self.register_buffer("bias", spread(bias.detach().float()))
        self.register_buffer("scale", None if scale is None else spread(scale.detach().float()))

    def job(self, x: Tensor, out: Tensor) -> Linear:
        """Return what the kernel is given: `x` (N, in_features) with its features side by side, `out` dense."""
        whole = self.weight.dtype == torch.int8
        return Linear(
            rows=x.shape[0],
            factors=self.in_features,
            x_row=x.stride(0),
            x=x.data_ptr(),
            weight=None if whole else self.weight.data_ptr(),
            bytes=self.weight.data_ptr() if whole else None,
            scale=pointer(self.scale),
            bias=self.bias.data_ptr(),
            after=self.activation.after(out, 1, x.shape[0]),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_features) to (N, out_features)."""
        kernel = kernel_for(x)
        if kernel is None:
            weight = unblocked(self.weight, self.out_features).to(x.dtype)
            y = x @ weight.t()
            y = y if self.scale is None else y * self.scale[: self.out_features].to(x.dtype)
            result: Tensor = self.activation(y + self.bias[: self.out_features].to(x.dtype))
            return result
        x = x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()
        out = floats(x.shape[0], self.out_features)
        kernel.run("linear", self.job(x, out))
        return out
