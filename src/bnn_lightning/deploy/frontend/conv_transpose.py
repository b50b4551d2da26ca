"""A transposed convolution that holds one bit a weight: a convolution whose channels are the pixels of a block."""

from typing import Self, cast

import torch
from torch import Tensor, nn

from bnn_lightning.deploy.frontend.layers import PackedConv2d, epilogue_of, input_threshold, signs_of
from bnn_lightning.layers.binary import BinaryLayer
from bnn_lightning.layers.conv_transpose import BinaryConvTranspose2d

_Pair = tuple[int, int]


def why_no_convolution(layer: BinaryConvTranspose2d) -> str:
    """Say why a transposed convolution is no convolution of signs, or nothing.

    Example:
        >>> why_no_convolution(BinaryConvTranspose2d(8, 8, 4, stride=2, padding=1))
        ''
        >>> why_no_convolution(BinaryConvTranspose2d(8, 8, 3, stride=2))
        'its stride (2, 2) does not divide its kernel size (3, 3)'
    """
    sizes = list(zip(_pair(layer.kernel_size), _pair(layer.stride), _pair(layer.dilation), strict=True))
    if any(kernel % stride for kernel, stride, _ in sizes):
        return f"its stride {layer.stride} does not divide its kernel size {layer.kernel_size}"
    if any(stride > 1 and dilation > 1 for _, stride, dilation in sizes):
        return f"it has a stride {layer.stride} and a dilation {layer.dilation}"
    if layer.groups > 1 and _pair(layer.stride) != (1, 1):
        return f"it has a stride {layer.stride} and {layer.groups} groups"
    return ""


class PackedConvTranspose2d(nn.Module):
    """A binary transposed convolution on bits.

    Of a stride s, output row ``s * q + r`` is the sum of the input rows ``q - m`` times the kernel's rows ``s * m +
    r``. So each r is a convolution of its own, with reversed rows. They are channels of one, and its map is then laid
    out in blocks of s x s pixels.

    Args:
        layer: A layer for which `why_no_convolution` has no reason. Its scale and its bias are left out, unlike those
            of `from_layer`.

    Raises:
        ValueError: Its weights are not -1 and +1.

    Example:
        >>> from bnn_lightning.binarizers import SignSTE, WeightSign
        >>> up = BinaryConvTranspose2d(16, 8, 2, stride=2, input_binarizer=SignSTE(), weight_binarizer=WeightSign())
        >>> x = torch.randn(1, 16, 4, 4)
        >>> torch.equal(PackedConvTranspose2d.from_layer(up)(x), up(x))
        True
    """

    def __init__(self, layer: BinaryConvTranspose2d) -> None:
        super().__init__()
        self.stride = _pair(layer.stride)
        axes = [_Axis(layer, axis) for axis in (0, 1)]
        self.first, self.rest = _pair([a.first for a in axes]), _pair([a.rest for a in axes])
        self.conv = PackedConv2d(
            _phases(signs_of(layer), self.stride),
            padding=(*axes[0].padding, *axes[1].padding),
            dilation=_pair(layer.dilation),
            groups=layer.groups,
            threshold=input_threshold(layer),
        )
        self.train(layer.training)

    @classmethod
    def from_layer(cls, layer: BinaryConvTranspose2d) -> Self:
        """Pack a binary transposed convolution, its scale and its bias.

        Raises:
            ValueError: Its weights are not -1 and +1.
        """
        packed = cls(layer)
        for name, values in epilogue_of(layer).items():
            setattr(packed.conv, name, packed.conv.spread(values.repeat(packed.stride[0] * packed.stride[1])))
        return packed

    @torch.no_grad()
    def copy_(self, layer: BinaryLayer) -> None:
        """Take signs, scale, bias and threshold of a layer like the one that this was made from, in place.

        Raises:
            ValueError: Its weights are not -1 and +1.
        """
        assert isinstance(layer, BinaryConvTranspose2d)
        for mine, new in zip(self.buffers(), self.from_layer(layer).buffers(), strict=True):
            mine.copy_(new)

    def forward(self, input: Tensor) -> Tensor:
        """Map real-valued (N, in_channels, H, W) to (N, out_channels, H', W').

        Raises:
            ValueError: Another number of channels, or maps that are too small.
        """
        y: Tensor = self.conv(input)
        y = y if self.stride == (1, 1) else _in_blocks(y, self.stride)
        for place, (stride, first, rest) in enumerate(zip(self.stride, self.first, self.rest, strict=True), start=2):
            size = stride * input.shape[place] + rest
            if size < 1:
                raise ValueError(
                    f"Maps of {input.shape[2]}x{input.shape[3]} pixels are too small: no pixel of the output is left."
                )
            y = y if (first, size) == (0, y.shape[place]) else y.narrow(place, first, size)
        return y.contiguous()


class _Axis:
    """Geometry of one axis.

    Attributes:
        padding: Padding of the convolution before and behind.
        first: First row of its blocks that is one of the output.
        rest: Rows of the output beyond the stride times the rows of the input.
    """

    def __init__(self, layer: BinaryConvTranspose2d, axis: int) -> None:
        sizes = (layer.kernel_size, layer.stride, layer.padding, layer.output_padding, layer.dilation)
        kernel, stride, padding, more, dilation = (_pair(size)[axis] for size in sizes)
        reach = dilation * (kernel // stride - 1)
        skipped = min(padding // stride, reach)  # blocks that the padding of torch's layer cuts off
        self.first = padding - stride * skipped
        self.rest = dilation * (kernel - 1) + 1 + more - 2 * padding - stride
        blocks = -(-(self.first + self.rest) // stride)  # beyond the rows of the input
        self.padding = (reach - skipped, max(blocks + skipped, 0))


def _phases(filters: Tensor, stride: _Pair) -> Tensor:
    """Return the kernels of a convolution from filters (out_channels, in_channels / groups, height, width)."""
    outputs, inputs, height, width = filters.shape
    rows, columns = stride
    split = filters.reshape(outputs, inputs, height // rows, rows, width // columns, columns)
    moved = split.flip(2, 4).permute(3, 5, 0, 1, 2, 4)
    return moved.reshape(outputs * rows * columns, inputs, height // rows, width // columns)


def _in_blocks(x: Tensor, block: _Pair) -> Tensor:
    """Lay channels (N, rows * columns * C, H, W) out as blocks of pixels, (N, C, H * rows, W * columns).

    In two moves, since kernels move elements through three axes at once.
    """
    (rows, columns), (number, channels, height, width) = block, x.shape
    outputs = channels // (rows * columns)
    lines = x.permute(0, 2, 1, 3).reshape(number, height * rows, columns * outputs * width)
    split = lines.reshape(number, height * rows, columns, outputs, width)
    return split.permute(0, 3, 1, 4, 2).reshape(number, outputs, height * rows, width * columns)


def _pair(values: object) -> _Pair:
    """Return values of rows and columns."""
    rows, columns = cast(_Pair, values)
    return rows, columns
