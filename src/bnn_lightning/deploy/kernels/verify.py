"""A verifier of plans: whatever a kernel call reads and writes lies within the regions of memory that a context has.

The rules are those of the C files, kernel by kernel: which elements a field's address is followed to, what must divide
what, and what the fixed arrays of the kernels hold. runtime/csrc/verify.c holds the same.
"""

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from numpy.typing import NDArray

from bnn_lightning.deploy.kernels.abi import PART, WORKERS, field_offsets
from bnn_lightning.deploy.kernels.call import Address, Count, KernelCall, Region

Array = NDArray[Any]
_BLOCK, _WORD, _FLOAT = 16, 32, 4
_LINE = 64  # LINE of conv2d.c
_LINES = 16  # MOST_LINES of epilogue.h
_MOST_FACTORS = 1 << 31  # of a binary sum
_MOST = 1 << 62  # bytes: whatever is counted fits a signed number of 64 bits
_WRITABLE = (Region.ARENA, Region.SIGNS, Region.OUTPUT)


class CallError(ValueError):
    """A kernel call would read or write elsewhere than in its own memory."""


@dataclass(frozen=True, eq=False)
class Memory:
    """The memory of a context, for a number of images.

    Attributes:
        sizes: Bytes of each region.
        images: Number of images.
        tables: Bytes of the regions whose contents are known: constants.
    """

    sizes: Mapping[Region, int]
    images: int
    tables: Mapping[Region, Array] = field(default_factory=dict)


def verify(call: KernelCall, memory: Memory) -> None:
    """Check a kernel call before it runs.

    Args:
        call: What the kernel is given.
        memory: Memory that it may use.

    Raises:
        CallError: A read or a write would leave the memory, or the numbers of the call do not fit each other.

    Example:
        >>> call = KernelCall("pad", {"pixels": 2, "channels": 3, "inner": 1, "out": Address(Region.ARENA)})
        >>> verify(call, Memory({Region.ARENA: 24}, 1))
        >>> verify(call, Memory({Region.ARENA: 20}, 1))
        Traceback (most recent call last):
        bnn_lightning.deploy.kernels.verify.CallError: `pad` of value 0: 24 bytes of `out` do not lie in the arena.
    """
    if call.kernel not in _RULES:
        raise CallError(f"`{call.kernel}` is no kernel: there are {', '.join(_RULES)}.")
    places = field_offsets(call.kernel)
    for name, value in call.fields.items():
        if name not in places:
            raise CallError(f"`{call.kernel}` of value {call.node}: it has no field `{name}`.")
        if isinstance(value, Address) != (places[name][1] is ctypes.c_void_p):
            raise CallError(f"`{call.kernel}` of value {call.node}: `{name}` cannot be {value}.")
    _RULES[call.kernel](_Job(call, memory))


class _Fields:
    """Fields of a structure, or of one in it, by attribute: numbers, and addresses; absent ones are 0."""

    def __init__(self, call: KernelCall, images: int, prefix: str = "") -> None:
        self._call, self._images, self._prefix = call, images, prefix

    def __getattr__(self, name: str) -> Any:
        path = self._prefix + name
        if path in _structures(self._call.kernel):
            return _Fields(self._call, self._images, f"{path}.")
        value = self._call.fields.get(path, 0)
        return value.at(self._images) if isinstance(value, Count) else value


@cache
def _structures(kernel: str) -> frozenset[str]:
    """Return the names of the structures within a kernel's own."""
    return frozenset(name.rpartition(".")[0] for name in field_offsets(kernel)) - {""}


class _Job:
    """The fields of a call, and what is demanded of them."""

    def __init__(self, call: KernelCall, memory: Memory) -> None:
        self.call, self.memory = call, memory
        self.job = _Fields(call, memory.images)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.job, name)

    def need(self, fits: bool, rule: str) -> None:
        if not fits:
            raise CallError(f"`{self.call.kernel}` of value {self.call.node}: {rule}.")

    def positive(self, *names: str) -> None:
        for name in names:
            self.need(getattr(self.job, name) > 0, f"`{name}` must be positive, not {getattr(self.job, name)}")

    def reach(
        self, name: str, count: int, size: int = _FLOAT, *, of: Any = None, needed: bool = True, write: bool = False
    ) -> None:
        """Demand that so many elements lie where a field points, if it points anywhere."""
        address = getattr(self.job if of is None else of, name)
        self.need(isinstance(address, Address) or not needed, f"`{name}` points nowhere")
        if not isinstance(address, Address):
            return
        begin, bytes_, region = address.at(self.memory.images), count * size, address.region
        self.need(address.offset >= 0 and address.per_image >= 0, f"`{name}` begins before its region")
        self.need(address.offset % _FLOAT == address.per_image % _FLOAT == 0, f"`{name}` begins within an element")
        self.need(not write or region in _WRITABLE, f"`{name}` is written, and lies in the {region.name.lower()}")
        inside = begin + bytes_ <= self.memory.sizes.get(region, 0) and bytes_ < _MOST
        self.need(inside, f"{bytes_} bytes of `{name}` do not lie in the {region.name.lower()}")

    def parameters(self, channels: int, *names: str, of: Any = None) -> None:
        """Demand values for whole blocks of channels where these fields point anywhere."""
        for name in names:
            self.reach(name, blocks(channels) * _BLOCK, of=of, needed=False)

    def table(self, name: str, count: int) -> tuple[int, int]:
        """Return the least and the largest number of a table of int32."""
        self.reach(name, count)
        self.need(count > 0, f"`{name}` is empty")
        address = getattr(self.job, name)
        self.need(address.region in self.memory.tables and not address.per_image, f"`{name}` is no constant")
        values = self.memory.tables[address.region][address.offset : address.offset + 4 * count].view("<i4")
        self.need(int(values.min()) >= 0, f"`{name}` points before what it begins with")
        return int(values.min()), int(values.max())

    def signs(self, fields: Any, images: int, height: int, width: int, blocks_of_pixel: int) -> None:
        """Demand room for the signs of a result, and thresholds."""
        if not fields.bits:
            return
        self.need(min(fields.bits_top, fields.bits_left) >= 0, "signs begin before their map")
        fits = height + fields.bits_top <= fields.bits_height and width + fields.bits_left <= fields.bits_width
        self.need(fits and blocks_of_pixel <= 2 * fields.bits_words, "signs have more pixels or channels than room")
        self.reach("bits", images * fields.bits_height * fields.bits_width * fields.bits_words, of=fields, write=True)
        self.need(bool(fields.threshold), "signs have no threshold")

    def after(self, images: int, *, height: int | None = None, width: int | None = None) -> None:
        """Demand room for what follows a sum."""
        after = self.job.after
        height, width = after.height if height is None else height, after.width if width is None else width
        self.need(min(height, width, after.channels) > 0, "a result has no pixels or no channels")
        self.need(after.out_channels >= after.channels, "a result has more channels than its memory")
        self.parameters(after.channels, "slope", "shift", "threshold", of=after)
        pixels = images * height * width
        self.reach(
            "out", max(0, (pixels - 1) * after.out_channels + after.channels), of=after, needed=False, write=True
        )
        self.signs(after, images, height, width, blocks(after.channels))


def blocks(channels: int) -> int:
    """Return the number of blocks that hold so many channels."""
    return -(-channels // _BLOCK)


def parts(pixels: int) -> int:
    """Return the number of parts that a map of so many pixels is summed in."""
    return -(-pixels // PART)


def _repeats(c: _Job, added: int, channels: int, groups: int) -> None:
    """Demand that no block of channels is read across the end of a residual whose channels are read again and again."""
    c.need(added > 0, "a residual has no channels")
    for first in range(0, groups * channels, channels):
        for block in range(0, channels, _BLOCK):
            begin = (first + block) % added
            fits = begin + min(_BLOCK, channels - block) <= added
            c.need(fits, f"a block of {channels} channels does not divide a residual of {added}")


def _pack(c: _Job) -> None:
    c.positive("channels", "height", "width", "groups", "words")
    c.need(c.words * _WORD >= c.channels, "there are more channels than bits")
    strides = (c.stride_image, c.stride_channel, c.stride_y, c.stride_x)
    c.need(min(*strides, c.images, c.top, c.left) >= 0, "a stride or a place is negative")
    sizes = (c.images, c.groups * c.channels, c.height, c.width)
    if c.images:
        c.reach("x", 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)))
    c.reach("threshold", c.groups * c.words * _WORD)
    fits = c.height + c.top <= c.bits_height and c.width + c.left <= c.bits_width
    c.need(fits, "signs have more pixels than their map")
    c.reach("bits", c.images * c.bits_height * c.bits_width * c.groups * c.words, write=True)


def _convolve(c: _Job) -> None:
    c.positive("groups", "words", "channels", "kernel_height", "kernel_width", "stride_y", "stride_x", "out_height")
    c.positive("out_width", "dilation_y", "dilation_x")
    spans = ((c.kernel_height - 1) * c.dilation_y, (c.kernel_width - 1) * c.dilation_x)
    last = ((c.out_height - 1) * c.stride_y, (c.out_width - 1) * c.stride_x)
    c.need(last[0] + spans[0] < c.height and last[1] + spans[1] < c.width, "windows leave the map")
    c.need(min(c.pad_y, c.pad_x, c.real_height, c.real_width) >= 0, "a zero padding is negative")
    c.need(0 < c.job.reach < _MOST_FACTORS, "a sum has no factors, or too many")
    taps, pixel = c.kernel_height * c.kernel_width * c.words, c.groups * c.words
    _, far = c.table("offsets", taps)
    begin = ((c.images - 1) * c.height + last[0]) * c.width + last[1]
    c.reach("x", max(0, begin * pixel + pixel - c.words + far + 1))
    every = c.groups * blocks(c.channels) * _BLOCK
    c.reach("weight", every * taps)
    if c.real_height:
        c.reach("tap_sums", c.kernel_height * c.kernel_width * every)
    for name in ("scale", "bias"):
        c.reach(name, every)
    for name in ("gain", "offset", "lift", "slope", "shift", "threshold"):
        c.reach(name, every, needed=False)
    pixels, channels = c.images * c.out_height * c.out_width, c.groups * c.channels
    if c.residual:
        added = c.residual_channels or channels
        _repeats(c, added, c.channels, c.groups)
        c.reach("residual", pixels * added)
    c.reach("out", pixels * channels, needed=False, write=True)
    c.reach("sums", c.images * parts(c.out_height * c.out_width) * every, needed=False, write=True)
    whole = c.groups == 1 or c.channels % _BLOCK == 0
    c.need(whole or not (c.bits or c.sums), "signs and sums of groups need whole blocks")
    c.signs(c, c.images, c.out_height, c.out_width, c.groups * blocks(c.channels))


def _real_convolve(c: _Job) -> None:
    c.positive("channels", "height", "width", "kernel_height", "kernel_width", "stride_y", "stride_x", "factors")
    c.positive("dilation_y", "dilation_x")
    c.need(
        min(c.images, c.pad_y, c.pad_x, c.band, c.maxima.height) >= 0 and c.pool in (1, 2),
        "a number is out of its range",
    )
    c.need(min(c.x_image, c.x_channel, c.x_y, c.x_x) >= 0, "a stride is negative")
    after = c.job.after
    count = blocks(after.channels) * _BLOCK
    c.reach("weight", count * c.factors)
    c.parameters(after.channels, "gain", "scale")
    c.need(not c.gain or bool(c.offset), "a gain has no offset")
    c.parameters(after.channels, "offset")
    _, far = c.table("offsets", c.factors)
    sizes = (c.inner.height, c.inner.width) if c.maxima.height else (after.height, after.width)
    c.need(min(sizes) > 0, "the map has no pixels")
    if c.whole:
        c.need(bool(c.scale), "whole sums have no scale")
        c.reach("bias", c.table("bias_y", sizes[0])[1] + c.table("bias_x", sizes[1])[1] + count)
    else:
        c.parameters(after.channels, "bias")
    if c.band or c.maxima.height:
        band = _band(c, sizes, far)
        c.need(band <= c.work_size, "a band is larger than the memory of a worker")
        if c.maxima.height:
            _maxima(c, sizes, -(-band // _LINE) * _LINE)
        c.reach("work", WORKERS * c.work_size, 1, write=True)
    else:
        c.need(not (c.bytes or c.whole or c.mean or c.pool == 2 or c.pad_y or c.pad_x), "the input must be copied")
        steps = ((sizes[0] - 1) * c.stride_y * c.x_y, (sizes[1] - 1) * c.stride_x * c.x_x)
        c.reach("x", max(0, (c.images - 1) * c.x_image + sum(steps) + far + 1))
    c.after(c.images)
    if c.residual:
        c.need(not c.maxima.height, "maxima have a residual")
        c.reach("residual", c.images * after.height * after.width * after.channels)


def _band(c: _Job, sizes: tuple[int, int], far: int) -> int:
    """Demand that the rows that are copied lie in the input; return the bytes of their copy and of a word more."""
    c.positive("band")
    apart = bool(c.whole or c.mean or c.x_channel != 1)
    planes, inner, size = (c.channels, 1, 1 if c.whole else _FLOAT) if apart else (1, c.channels, _FLOAT)
    rows = (c.band - 1) * c.stride_y + (c.kernel_height - 1) * c.dilation_y + 1
    columns = (sizes[1] - 1) * c.stride_x + (c.kernel_width - 1) * c.dilation_x + 1
    place = (c.band - 1) * c.stride_y * columns * inner + (sizes[1] - 1) * c.stride_x * inner + far
    band: int = planes * rows * columns * inner * size + _FLOAT
    c.need(place * size + _FLOAT <= band, "windows leave their band")
    if c.mean or c.std:
        c.reach("mean", c.channels)
        c.reach("std", c.channels)
    if not apart:
        c.need(c.x_x == c.channels or c.width == 1, "channels do not lie side by side")
    if c.pool == 2:
        plain = (c.kernel_height, c.kernel_width, c.stride_y, c.stride_x, c.pad_y, c.pad_x) == (1, 1, 1, 1, 0, 0)
        c.need(plain and not apart and not c.bytes, "averages come before a plain 1x1 convolution")
        c.need(2 * (sizes[0] - 1) < c.height and 2 * (sizes[1] - 1) < c.width, "averages leave the map")
    # Planes and rows from their first element to the last one; the channels of a pixel where they are read together.
    last = (c.images - 1) * c.x_image + (c.height - 1) * c.x_y + (c.width - 1) * c.x_x
    last += (planes - 1) * c.x_channel + inner
    c.reach("x", max(0, last), 1 if c.bytes else _FLOAT)
    return band


def _maxima(c: _Job, sizes: tuple[int, int], band: int) -> None:
    """Demand room, behind a band of so many bytes, for the map before maxima, which is computed in turns."""
    inner, after, windows = c.inner, c.job.after, c.maxima
    _windows(c, windows, sizes, (after.height, after.width))
    c.need(windows.height <= _LINES and c.band >= windows.height - 1, "a window of maxima has too many rows")
    c.need(
        inner.channels == inner.out_channels == blocks(after.channels) * _BLOCK, "the map before maxima has odd blocks"
    )
    c.need(not inner.bits, "the map before maxima has no signs")
    c.parameters(inner.channels, "slope", "shift", of=inner)
    rows = 2 * c.band * inner.width * inner.out_channels * _FLOAT
    c.need(band + rows <= c.work_size, "rows before maxima are larger than the memory of a worker")


def _windows(c: _Job, w: Any, sizes: tuple[int, int], results: tuple[int, int]) -> None:
    positive = min(w.height, w.width, w.stride_y, w.stride_x) > 0 and min(w.pad_y, w.pad_x) >= 0
    c.need(positive and min(results) > 0, "windows have no pixels")
    begins = ((results[0] - 1) * w.stride_y - w.pad_y, (results[1] - 1) * w.stride_x - w.pad_x)
    c.need(begins[0] < sizes[0] and begins[1] < sizes[1], "windows begin behind the map")
    c.need(w.pad_y < w.height and w.pad_x < w.width, "windows lie before the map")


def _linear(c: _Job) -> None:
    c.positive("rows", "factors")
    count = blocks(c.job.after.channels) * _BLOCK
    c.need(c.x_row >= 0 and bool(c.weight) != bool(c.bytes), "rows or weights are not one thing")
    c.reach("x", (c.rows - 1) * c.x_row + c.factors)
    c.reach("weight", count * c.factors, needed=False)
    c.reach("bytes", count * c.factors, 1, needed=False)
    c.reach("scale", count, needed=bool(c.bytes))
    c.reach("bias", count)
    c.after(1, height=1, width=c.rows)


def _pool(c: _Job) -> None:
    c.positive("height", "width")
    after, w = c.job.after, c.windows
    c.need(c.images >= 0, "a number is out of its range")
    _windows(c, w, (c.height, c.width), (after.height, after.width))
    c.need(not (c.average and (w.pad_y or w.pad_x)), "averages have no padding")
    c.need(bool(c.average) or w.height <= _LINES, "a window of maxima has too many rows")
    c.after(c.images)
    c.parameters(after.channels, "before")
    c.reach("x", c.images * c.height * c.width * after.channels)


def _sum(c: _Job) -> None:
    c.positive("pixels", "channels", "images")
    c.reach("x", c.images * c.pixels * c.channels)
    c.parameters(c.channels, "before")
    c.need(c.sums_channels >= blocks(c.channels) * _BLOCK, "sums have fewer channels than the map")
    c.reach("sums", c.images * parts(c.pixels) * c.sums_channels, write=True)


def _average(c: _Job) -> None:
    c.positive("parts", "channels", "images")
    c.need(c.sums_channels >= blocks(c.channels) * _BLOCK, "sums have fewer channels than the averages")
    c.reach("sums", c.images * c.parts * c.sums_channels)
    c.reach("mean", c.images * c.channels, write=True)


def _pad(c: _Job) -> None:
    c.positive("channels")
    c.need(min(c.pixels, c.first, c.inner) >= 0 and c.first + c.inner <= c.channels, "channels leave their pixel")
    c.reach("out", c.pixels * c.channels, write=True)


def _gate(c: _Job) -> None:
    c.positive("images", "channels", "hidden", "out_channels")
    c.reach("own", c.images * c.channels)
    c.reach("other", c.images * c.channels, needed=False)
    c.reach("mix", blocks(c.channels) * _BLOCK, needed=bool(c.other))
    for name, inputs, outputs in (("squeeze", c.channels, c.hidden), ("excite", c.hidden, c.out_channels)):
        whole, count = bool(getattr(c, f"{name}_bytes")), blocks(outputs) * _BLOCK
        c.reach(f"{name}_bytes", count * inputs, 1, needed=False)
        c.reach(name, count * inputs, needed=not whole)
        c.parameters(outputs, f"{name}_scale")
        c.reach(f"{name}_bias", count)
    c.reach("work", c.images * (blocks(c.channels) + blocks(c.hidden)) * _BLOCK, write=True)
    c.reach("gate", c.images * c.out_channels, write=True)


def _combine(c: _Job) -> None:
    c.positive("images", "parts", "x_channels")
    after = c.job.after
    pixels = c.images * after.height * after.width
    joined = c.x_channels * (2 if c.second else 1)
    c.need(after.channels == joined, f"{joined} channels are combined to {after.channels}")
    c.need(not c.second or c.x_channels % _BLOCK == 0, "two maps side by side need whole blocks")
    c.after(c.images)
    for name in ("x", "second"):
        c.reach(name, pixels * c.x_channels, needed=name == "x")
    for name in ("gate", "second_gate"):
        c.reach(name, c.images * c.x_channels, needed=False)
    if c.residual:
        _repeats(c, c.residual_channels, after.channels, 1)
        c.reach("residual", pixels * c.residual_channels)
    c.need(not c.scale or bool(c.bias), "a scale has no bias")
    c.parameters(after.channels, "residual_slope", "scale", "bias", "inner", "half_slope")
    c.reach("sums", c.images * c.parts * blocks(after.channels) * _BLOCK, needed=False, write=True)
    halves = -(-after.height // 2) * -(-after.width // 2)
    c.reach("half", c.images * halves * after.channels, needed=False, write=True)


_RULES: dict[str, Callable[[_Job], None]] = {
    "pack": _pack,
    "convolve": _convolve,
    "real_convolve": _real_convolve,
    "linear": _linear,
    "pool": _pool,
    "sum": _sum,
    "average": _average,
    "pad": _pad,
    "gate": _gate,
    "combine": _combine,
}
