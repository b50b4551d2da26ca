"""A convolution of images in bytes with weights in int8, whose sums are whole numbers: the same wherever it runs."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bnn_lightning.deploy.frontend.fresh import CPU, count, pixels
from bnn_lightning.deploy.frontend.torch_library import out_size
from bnn_lightning.deploy.kernels.abi import RealConvolution
from bnn_lightning.deploy.kernels.conv2d import RealConv2d
from bnn_lightning.deploy.kernels.layout import Activation, blocked, new_map
from bnn_lightning.deploy.kernels.library import current_kernel
from bnn_lightning.deploy.kernels.pool import Pool2d
from bnn_lightning.functional.pack import spread

_WORD = 4  # bytes


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
        around: Shape (C,): what pixels are compared with, in 255ths; 255 * mean where images were normalised. What lies
            around the image counts as that: it is zero after the normalisation.
        bias: Shape (out_channels,), or None.
        stride: Of rows and columns.
        padding: Of rows and columns, on both sides.
        dilation: Of rows and columns.

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
    masks = [
        inside_of(x.shape[2 + i], weight.shape[2 + i], stride[i], padding[i], dilation[i], device=weight.device)
        for i in (0, 1)
    ]
    offset = border_bias(weight, scale, around, bias, *masks).to(x.dtype)
    return sums.to(x.dtype) * scale.to(x.dtype).view(-1, 1, 1) + offset


def inside_of(size: int, kernel: int, stride: int, padding: int, dilation: int, device: torch.device) -> Tensor:
    """Return which taps of each window lie in the image: (windows, kernel), 1 and 0 in float64."""
    number = out_size(size + 2 * padding, kernel, stride, dilation)
    windows = torch.arange(number, dtype=torch.int64, device=device) * stride - padding
    places = windows[:, None] + torch.arange(kernel, dtype=torch.int64, device=device) * dilation
    return ((places >= 0) & (places < size)).double()


def border_bias(
    weight: Tensor, scale: Tensor, around: Tensor, bias: Tensor | None, rows: Tensor, columns: Tensor
) -> Tensor:
    """Return what is added to scaled sums of pixels, as windows differ by what they have outside of the image.

    Args:
        weight: See `byte_conv2d`, as are scale, around and bias.
        scale: Shape (out_channels,).
        around: Shape (C,).
        bias: Shape (out_channels,), or None.
        rows: From `inside_of`, (H, kernel_height).
        columns: The same, (W, kernel_width).

    Returns:
        Shape (out_channels, H, W), in float64.
    """
    taps = (weight.double() * around.double().view(-1, 1, 1)).sum(1)
    sums = rows @ (taps @ columns.t())
    offset = -scale.double().view(-1, 1, 1) * sums
    return offset if bias is None else offset + bias.double().view(-1, 1, 1)


class ByteConv2d(RealConv2d):
    """`byte_conv2d` on the project's own kernels, with what follows it: PReLU, shift, clamp, maxima.

    Args:
        weight: int8, (out_channels, in_channels, kernel_height, kernel_width).
        scale: Shape (out_channels,).
        around: Shape (in_channels,), in 255ths.
        bias: Shape (out_channels,), or None.
        stride: Of rows and columns.
        padding: Of rows and columns, on both sides.
        dilation: Of rows and columns.
        activation: See `Activation`; None is nothing.
        maxima: Maxima of windows that follow, in the same pass.

    Example:
        >>> layer = ByteConv2d(torch.ones(1, 3, 1, 1, dtype=torch.int8), torch.ones(1), torch.zeros(3), None)
        >>> layer(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).item()
        765.0
    """

    scale: Tensor
    _room, _size = 1 << 15, 1

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor,
        around: Tensor,
        bias: Tensor | None,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        activation: Activation | None = None,
        maxima: Pool2d | None = None,
    ) -> None:
        super().__init__(
            weight,
            None,
            stride=stride,
            padding=padding,
            dilation=dilation,
            activation=activation,
            maxima=maxima,
        )
        self._given = weight, scale.detach().double(), around.detach().double(), bias
        words = weight.detach()
        # A word is four taps side by side; where these are dilated it holds one.
        words = F.pad(words, (0, -words.shape[3] % _WORD)) if dilation[1] == 1 else F.pad(words[..., None], (0, 3))
        rows = words.reshape(self.out_channels, -1, _WORD)
        packed = torch.stack([blocked(rows[..., i]) for i in range(_WORD)], -1)
        self.register_buffer("weight", packed)  # (blocks, words, BLOCK, 4)
        self.register_buffer("scale", spread(scale.detach().float()))
        self._biases: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}

    def band(self, shape: Sequence[int], *, copied: bool = True) -> int | None:
        """Return how many rows of the result are computed from a copy; None if it is too large."""
        return super().band(shape, copied=True)

    def work_size(self, shape: Sequence[int], *, copied: bool = True) -> int:
        """Return the bytes that each worker needs."""
        return super().work_size(shape, copied=True)

    def reads(self, x: Tensor) -> bool:
        """Whether the kernel takes an input as it lies in memory: it takes all."""
        return True

    def tables(self) -> list[Tensor]:
        """Return what jobs read beside the buffers."""
        return [*super().tables(), *(table for tables in self._biases.values() for table in tables)]

    def job(
        self, x: Tensor, out: Tensor | None, residual: Tensor | None = None, work: Tensor | None = None
    ) -> RealConvolution:
        """Return what the kernel is given, for images in uint8 or float32; see `RealConv2d.job`."""
        job = super().job(x, out, residual, work)
        bias, rows, columns = self._border(x.shape[2], x.shape[3])
        job.whole, job.scale = 1, self.scale.data_ptr()
        job.bias, job.bias_y, job.bias_x = bias.data_ptr(), rows.data_ptr(), columns.data_ptr()
        return job

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Map images, uint8 or float32 in [0, 1], to (N, out_channels, H', W'), in the channels_last format."""
        kernel = current_kernel() if x.is_cpu and x.dtype in (torch.uint8, torch.float32) else None
        if kernel is None or residual is not None or self.band(x.shape) is None:
            return self._in_torch(x, residual)
        out = new_map(*self.out_shape(x.shape))
        work = self.work(x.shape)
        kernel.run("real_convolve", self.job(x, out, None, work))
        return out

    def _in_torch(self, x: Tensor, residual: Tensor | None) -> Tensor:
        x = pixels(x)
        t = byte_conv2d(x, *self._given, self.stride, self.padding, self.dilation)
        return self._followed(t if residual is None else t + residual)

    def _border(self, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the biases of all kinds of windows, and where those of each row and column begin."""
        if (height, width) not in self._biases:
            kinds, places = [], []
            for i, size in enumerate((height, width)):
                fixed = (self.kernel_size[i], self.stride[i], self.padding[i], self.dilation[i])
                masks, inverse = torch.unique(inside_of(size, *fixed, CPU), dim=0, return_inverse=True)
                kinds.append(masks)
                places.append(inverse)
            bias = spread(border_bias(*self._given, *kinds).movedim(0, -1).float())
            row, column = bias.shape[1] * bias.shape[2], bias.shape[2]
            starts = [(place * step).to(torch.int32) for place, step in zip(places, (row, column), strict=True)]
            self._biases[height, width] = (bias, starts[0], starts[1])
        return self._biases[height, width]

    def _places(self, x: Tensor, band: int) -> Tensor:
        """Return how many bytes each word of a window lies from its beginning in a band."""
        window, columns = self._reach(self.map_shape(x.shape)[3])
        rows = (band - 1) * self.stride[0] + window
        if (rows, columns) not in self._offsets:
            dilated = self.dilation[1] > 1
            step = self.dilation[1] if dilated else _WORD
            far = count(self.kernel_size[1] if dilated else -(-self.kernel_size[1] // _WORD)) * step
            lines = count(self.kernel_size[0]) * self.dilation[0] * columns
            planes = count(self.in_channels) * rows * columns
            offsets = planes[:, None, None] + lines[:, None] + far
            self._offsets[rows, columns] = offsets.flatten().to(torch.int32)
        return self._offsets[rows, columns]
