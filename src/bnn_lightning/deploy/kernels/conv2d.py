"""Calls of the kernel of real-valued convolutions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.deploy.kernels.abi import LINE, WORKERS
from bnn_lightning.deploy.kernels.call import Address, Field, KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.layout import (
    BLOCK,
    FLOAT,
    IMAGES,
    Activation,
    Map,
    Pair,
    Shape,
    given,
    num_blocks,
    out_size,
    placed,
)
from bnn_lightning.deploy.kernels.pool import Pool2d
from bnn_lightning.deploy.kernels.weights import Source, blocked_weight

Array = NDArray[Any]
_ROOM = 1 << 14  # floats of a band: as many as caches hold beside the weights
_WORK = 1 << 16  # floats of the map before maxima that a worker keeps
_SHARES = 4  # bands of an image at least: threads take them by turns
_PIXELS = 24  # of a band at least, before a map is divided for threads: tiles of up to 14 pixels are hardly left empty
_SLACK = 4  # bytes of a word that may lie behind a band
_MOST_PLANES = 4  # channels of an image that is read as it lies, without channels side by side


@dataclass(frozen=True, eq=False)
class Conv2d:
    """A real convolution with what stands around it; of images in bytes, too, which are taken in 255ths.

    That is bias, affine map, addition, PReLU, shift and clamp behind it, and a normalization or 2x2 averages before it.

    Attributes:
        weight: Shape (out_channels, in_channels, kernel_height, kernel_width).
        activation: Activation of the channels of the result.
        bias: Shape (out_channels,), or None.
        stride: Stride of rows and columns.
        padding: Padding of rows and columns, on both sides.
        dilation: Dilation of rows and columns.
        affine: Scale and shift, (out_channels,) each, of what follows the bias; None is nothing.
        normalization: Mean and standard deviation, (in_channels,) each, of the input; None: it is taken as it is.
        pool: 2 averages the input over 2x2 first (what there is of it at an odd side); only before a 1x1 kernel.
        maxima: Maxima of windows that follow, in the same pass.
        source: Constant of the weight in the graph; None: it was computed.
        beyond: Rows below and columns on the right that are padded besides.

    Raises:
        ValueError: Averages before another kernel than 1x1.

    Example:
        >>> Conv2d(np.ones((4, 3, 1, 1)), Activation(4), pool=2).out_shape((3, 4, 4))
        (4, 2, 2)
    """

    weight: Array
    activation: Activation
    bias: Array | None = None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    affine: tuple[Array, Array] | None = None
    normalization: tuple[Array, Array] | None = None
    pool: int = 1
    maxima: Pool2d | None = None
    source: Source | None = None
    beyond: Pair = (0, 0)

    def __post_init__(self) -> None:
        plain = self.kernel_size + self.stride + self.padding + self.beyond == (1, 1, 1, 1, 0, 0, 0, 0)
        if self.pool not in (1, 2) or (self.pool == 2 and not plain):
            raise ValueError(f"`pool` must be 1, or 2 before a plain 1x1 convolution, got {self.pool}.")

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return int(self.weight.shape[1])

    @property
    def kernel_size(self) -> Pair:
        """Height and width of a window."""
        return self.weight.shape[2], self.weight.shape[3]

    def map_shape(self, shape: Shape) -> Shape:
        """Return the shape of the convolution's own result for a map of this shape."""
        sizes = [
            out_size(-(-size // self.pool) + 2 * pad + more, kernel, stride, dilation)
            for size, kernel, stride, pad, more, dilation in zip(
                shape[1:], self.kernel_size, self.stride, self.padding, self.beyond, self.dilation, strict=True
            )
        ]
        return len(self.weight), sizes[0], sizes[1]

    def out_shape(self, shape: Shape) -> Shape:
        """Return the shape of the result for a map of this shape."""
        own = self.map_shape(shape)
        return own if self.maxima is None else self.maxima.out_shape(own)

    @property
    def is_native(self) -> bool:
        """Whether the kernel computes it."""
        return self.maxima is None or self.maxima.is_native

    def reads(self, x: Map) -> bool:
        """Whether the kernel takes a map as it lies in memory."""
        return not x.planar or (self.pool == 1 and x.shape[0] <= _MOST_PLANES)

    def band(self, x: Map) -> int:
        """Return how many rows of the result are computed from a copy of the rows they need; 0 if none is needed."""
        if not self._copies(x):
            return 0
        _, height, width = self.map_shape(x.shape)
        (rows, columns), (step, _) = self._reach(width), self.stride
        fits = (self._room // (columns * self.in_channels) - rows) // step + 1
        shares = min(_SHARES, max(1, height * width // _PIXELS))
        fits = min(max(fits, 1), -(-height // shares))
        if self.maxima is not None:
            lines = self.maxima.kernel_size[0]
            fits = max(lines - 1, 1, min(fits, _WORK // (2 * width * num_blocks(len(self.weight)) * BLOCK)))
        return fits

    def work_size(self, x: Map) -> int:
        """Return the bytes that a worker needs: the rows that it copies, and rows of the map before maxima."""
        (channels, _, width), band = self.map_shape(x.shape), self.band(x)
        if not band:
            return 0
        rows, columns = self._reach(width)
        copy = ((band - 1) * self.stride[0] + rows) * columns * self.in_channels * self._size + _SLACK
        lines = 0 if self.maxima is None else 2 * band * width * num_blocks(channels) * BLOCK * FLOAT
        return -(-copy // LINE) * LINE + -(-lines // LINE) * LINE

    def scratch_size(self, x: Map) -> int:
        """Return the bytes that all workers need together."""
        return WORKERS * self.work_size(x)

    def call(
        self,
        constants: ConstantSection,
        x: Map,
        out: Map | None,
        *,
        residual: Address | None = None,
        work: Address | None = None,
        node: int = 0,
    ) -> KernelCall:
        """Return the call for a map that `reads` takes.

        Args:
            constants: Section that takes weights and parameters.
            x: The map.
            out: Place of the result; None writes no floats.
            residual: Summand, a dense map.
            work: Memory of `scratch_size` bytes; None where that is 0.
            node: Number of the value.
        """
        (channels, height, width), band = x.shape, self.band(x)
        x_image, x_channel, x_y, x_x = x.strides
        fields: dict[str, Field | None] = {
            "images": IMAGES,
            "channels": channels,
            "height": height,
            "width": width,
            "kernel_height": self.kernel_size[0],
            "kernel_width": self.kernel_size[1],
            "stride_y": self.stride[0],
            "stride_x": self.stride[1],
            "dilation_y": self.dilation[0],
            "dilation_x": self.dilation[1],
            "pad_y": self.padding[0],
            "pad_x": self.padding[1],
            "x_image": x_image,
            "x_channel": 1 if channels == 1 else x_channel,
            "x_y": x_y,
            "x_x": x_x,
            "pool": self.pool,
            "band": band,
            "x": x.address,
            "bytes": int(x.in_bytes),
            "residual": residual,
            "offsets": constants.add(self._offsets(x, band)),
            "work": work,
            "work_size": self.work_size(x),
            **self._constants(constants, x.shape),
        }
        return KernelCall("real_convolve", {**given(fields), **self._ends(constants, x.shape, out)}, node)

    @property
    def _room(self) -> int:
        """Elements of a band."""
        return _ROOM

    @property
    def _size(self) -> int:
        """Bytes of an element of a band."""
        return FLOAT

    def _copies(self, x: Map) -> bool:
        """Whether rows are copied before they are computed with."""
        around = any(self.padding + self.beyond) or self.normalization is not None
        return around or x.in_bytes or self.pool == 2 or self.maxima is not None

    def _constants(self, constants: ConstantSection, shape: Shape) -> dict[str, Field | None]:
        """Return the fields of weights and parameters."""
        gain, offset = self.affine or (None, None)
        mean, std = self.normalization or (None, None)
        return {
            "factors": self.weight[0].size,
            "weight": blocked_weight(constants, self.weight.astype(np.float32), self.source),
            "bias": placed(constants, self.bias),
            "gain": placed(constants, gain),
            "offset": placed(constants, offset),
            "mean": constants.optional(None if mean is None else mean.astype(np.float32)),
            "std": constants.optional(None if std is None else std.astype(np.float32)),
        }

    def _ends(self, constants: ConstantSection, shape: Shape, out: Map | None) -> dict[str, Field]:
        """Return the fields of what follows the sums, and of where results go."""
        channels, height, width = self.map_shape(shape)
        if self.maxima is None:
            return self.activation.fields(constants, out, height, width)
        padded = num_blocks(channels) * BLOCK
        inner = self.activation.fields(constants, None, height, width, "inner.")
        inner |= {"inner.channels": padded, "inner.out_channels": padded}
        after = Activation(channels).fields(constants, out, *self.out_shape(shape)[1:])
        return {**inner, **self.maxima.windows("maxima."), **after}

    def _reach(self, width: int) -> Pair:
        """Return the rows of a window, and the columns of a row of windows."""
        rows, columns = ((self.kernel_size[i] - 1) * self.dilation[i] + 1 for i in (0, 1))
        return rows, columns + (width - 1) * self.stride[1]

    def _offsets(self, x: Map, band: int) -> Array:
        """Return how far each factor of a window lies from its beginning, in x or in a band of it."""
        _, x_channel, x_y, x_x = x.strides
        if band:
            window, columns = self._reach(self.map_shape(x.shape)[2])
            rows = (band - 1) * self.stride[0] + window
            planar = self.normalization is not None or (x.planar and x.shape[0] > 1)
            strides = (rows * columns, columns, 1) if planar else (1, columns * self.in_channels, self.in_channels)
        else:
            strides = (x_channel, x_y, x_x)
        far = [np.arange(self.kernel_size[i]) * self.dilation[i] * strides[i + 1] for i in (0, 1)]
        channels = np.arange(self.in_channels) * strides[0]
        return (far[0][:, None, None] + far[1][:, None] + channels).ravel().astype(np.int32)
