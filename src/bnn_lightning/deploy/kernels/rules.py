"""The rules of the verifier, kernel by kernel, as in runtime/csrc/rules.c."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from bnn_lightning.deploy.ir.operations import EPILOGUE
from bnn_lightning.deploy.kernels.abi import AFTER, LINE, MOST_LINES, WORKERS, Function, Pair
from bnn_lightning.deploy.kernels.job import Job
from bnn_lightning.deploy.kernels.layout import BLOCK, FLOAT, WORD_BITS, num_blocks, num_parts

MOST_ELEMENTS = 1 << 28  # of a value of one image: 1 GiB, far beyond any network's
_MOST_FACTORS = 1 << 31  # of a binary sum
# Numbers that may depend on the number of images, beside `images`: all rules are linear in them.
_MAY_GROW = {
    "linear": ("rows", "after.width", "after.bits_width"),
    "pad": ("pixels",),
    "unary": ("count",),
    "softmax": ("rows",),
    "layer_norm": ("rows",),
}


def may_grow(kernel: str, name: str) -> bool:
    """Whether a number of a kernel may depend on the number of images."""
    return name in _MAY_GROW.get(kernel, ("images",))


def _repeats(c: Job, added: int, channels: int, groups: int) -> None:
    """Demand that no block of channels is read across the end of a residual whose channels are read again and again."""
    c.need(added > 0, "a residual has no channels")
    for first in range(0, groups * channels, channels):
        for block in range(0, channels, BLOCK):
            begin = (first + block) % added
            fits = begin + min(BLOCK, channels - block) <= added
            c.need(fits, f"a block of {channels} channels does not divide a residual of {added}")


def _pack(c: Job) -> None:
    c.positive("channels", "height", "width", "groups", "words")
    c.need(c.words * WORD_BITS >= c.channels, "there are more channels than bits")
    strides = (c.stride_image, c.stride_channel, c.stride_y, c.stride_x)
    c.need(min(*strides, c.images, c.top, c.left) >= 0, "a stride or a place is negative")
    sizes = (c.images, c.groups * c.channels, c.height, c.width)
    if c.images:
        c.reach("x", 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)))
    c.reach("threshold", c.groups * c.words * WORD_BITS)
    fits = c.height + c.top <= c.bits_height and c.width + c.left <= c.bits_width
    c.need(fits, "signs have more pixels than their map")
    c.reach("bits", c.images * c.bits_height * c.bits_width * c.groups * c.words, write=True)


def _convolve(c: Job) -> None:
    c.positive("groups", "words", "channels", "kernel_height", "kernel_width", "stride_y", "stride_x", "out_height")
    c.positive("out_width", "dilation_y", "dilation_x")
    c.need(c.images >= 0, "a number is out of its range")
    spans = ((c.kernel_height - 1) * c.dilation_y, (c.kernel_width - 1) * c.dilation_x)
    last = ((c.out_height - 1) * c.stride_y, (c.out_width - 1) * c.stride_x)
    c.need(last[0] + spans[0] < c.height and last[1] + spans[1] < c.width, "windows leave the map")
    c.need(min(c.pad_y, c.pad_x, c.real_height, c.real_width) >= 0, "a zero padding is negative")
    c.need(0 < c.job.reach < _MOST_FACTORS, "a sum has no factors, or too many")
    taps, pixel = c.kernel_height * c.kernel_width * c.words, c.groups * c.words
    _, far = c.table("offsets", taps)
    begin = ((c.images - 1) * c.height + last[0]) * c.width + last[1]
    c.reach("x", max(0, begin * pixel + pixel - c.words + far + 1))
    every = c.groups * num_blocks(c.channels) * BLOCK
    c.reach("weight", every * taps)
    if c.real_height or c.center:
        c.reach("tap_sums", c.kernel_height * c.kernel_width * every)
    for name in (*EPILOGUE, "threshold"):
        c.reach(name, every, needed=name in ("scale", "bias"))
    pixels, channels = c.images * c.out_height * c.out_width, c.groups * c.channels
    if c.residual:
        added = c.residual_channels or channels
        _repeats(c, added, c.channels, c.groups)
        c.reach("residual", pixels * added)
    c.reach("out", pixels * channels, needed=False, write=True)
    c.reach("sums", c.images * num_parts(c.out_height * c.out_width) * every, needed=False, write=True)
    whole = c.groups == 1 or c.channels % BLOCK == 0
    c.need(whole or not (c.bits or c.sums), "signs and sums of groups need whole blocks")
    c.signs(c, c.images, c.out_height, c.out_width, c.groups * num_blocks(c.channels))
    c.need(bool(c.out or c.bits or c.sums), "a call writes nothing")


def _real_convolve(c: Job) -> None:
    c.positive("channels", "height", "width", "kernel_height", "kernel_width", "stride_y", "stride_x", "factors")
    c.positive("dilation_y", "dilation_x")
    numbers = (c.images, c.pad_y, c.pad_x, c.band, c.maxima.height, c.work_size)
    fits = min(numbers) >= 0 and c.pool in (1, 2) and c.work_size % FLOAT == 0
    c.need(fits, "a number is out of its range")
    c.need(min(c.x_image, c.x_channel, c.x_y, c.x_x) >= 0, "a stride is negative")
    after = c.job.after
    count = num_blocks(after.channels) * BLOCK
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
            _maxima(c, sizes, -(-band // LINE) * LINE)
        c.reach("work", WORKERS * c.work_size, 1, write=True)
        c.reach("work", 0, LINE, write=True)  # lines of the cache
    else:
        c.need(not (c.bytes or c.whole or c.mean or c.pool == 2 or c.pad_y or c.pad_x), "the input must be copied")
        steps = ((sizes[0] - 1) * c.stride_y * c.x_y, (sizes[1] - 1) * c.stride_x * c.x_x)
        c.reach("x", max(0, (c.images - 1) * c.x_image + sum(steps) + far + 1))
    c.after(c.images)
    if c.residual:
        c.need(not c.maxima.height, "maxima have a residual")
        c.reach("residual", c.images * after.height * after.width * after.channels)


def _band(c: Job, sizes: tuple[int, int], far: int) -> int:
    """Demand that the rows that are copied lie in the input; return the bytes of their copy and of a word more."""
    c.positive("band")
    apart = bool(c.whole or c.mean or c.x_channel != 1)
    planes, inner, size = (c.channels, 1, 1 if c.whole else FLOAT) if apart else (1, c.channels, FLOAT)
    rows = (c.band - 1) * c.stride_y + (c.kernel_height - 1) * c.dilation_y + 1
    columns = (sizes[1] - 1) * c.stride_x + (c.kernel_width - 1) * c.dilation_x + 1
    place = (c.band - 1) * c.stride_y * columns * inner + (sizes[1] - 1) * c.stride_x * inner + far
    band: int = planes * rows * columns * inner * size + FLOAT
    c.need(place * size + FLOAT <= band, "windows leave their band")
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
    c.reach("x", max(0, last), 1 if c.bytes else FLOAT)
    return band


def _maxima(c: Job, sizes: tuple[int, int], band: int) -> None:
    """Demand room, behind a band of so many bytes, for the map before maxima, which is computed in turns."""
    inner, after, windows = c.inner, c.job.after, c.maxima
    _windows(c, windows, sizes, (after.height, after.width))
    c.need(windows.height <= MOST_LINES and c.band >= windows.height - 1, "a window of maxima has too many rows")
    whole = inner.channels == inner.out_channels == num_blocks(after.channels) * BLOCK
    c.need(whole, "the map before maxima has odd blocks")
    c.need(not inner.bits, "the map before maxima has no signs")
    c.parameters(inner.channels, *AFTER, of=inner)
    rows = 2 * c.band * inner.width * inner.out_channels * FLOAT
    c.need(band + rows <= c.work_size, "rows before maxima are larger than the memory of a worker")


def _windows(c: Job, w: Any, sizes: tuple[int, int], results: tuple[int, int]) -> None:
    positive = min(w.height, w.width, w.stride_y, w.stride_x) > 0 and min(w.pad_y, w.pad_x) >= 0
    c.need(positive and min(results) > 0, "windows have no pixels")
    begins = ((results[0] - 1) * w.stride_y - w.pad_y, (results[1] - 1) * w.stride_x - w.pad_x)
    c.need(begins[0] < sizes[0] and begins[1] < sizes[1], "windows begin behind the map")
    c.need(w.pad_y < w.height and w.pad_x < w.width, "windows lie before the map")
    c.need(w.height * w.width < _MOST_FACTORS, "windows have too many pixels")


def _linear(c: Job) -> None:
    c.positive("rows", "factors")
    count = num_blocks(c.job.after.channels) * BLOCK
    c.need(c.x_row >= 0 and bool(c.weight) != bool(c.bytes), "rows or weights are not one thing")
    c.reach("x", (c.rows - 1) * c.x_row + c.factors)
    c.reach("weight", count * c.factors, needed=False)
    c.reach("bytes", count * c.factors, 1, needed=False)
    c.reach("scale", count, needed=bool(c.bytes))
    c.reach("bias", count)
    c.after(1, height=1, width=c.rows)


def _pool(c: Job) -> None:
    c.positive("height", "width")
    after, w = c.job.after, c.windows
    c.need(c.images >= 0, "a number is out of its range")
    _windows(c, w, (c.height, c.width), (after.height, after.width))
    c.need(c.average in (0, 1, 2), "a number is out of its range")
    c.need(bool(c.average) or w.height <= MOST_LINES, "a window of maxima has too many rows")
    c.after(c.images)
    c.parameters(after.channels, "before")
    c.reach("x", c.images * c.height * c.width * after.channels)


def _sum(c: Job) -> None:
    c.positive("pixels", "channels", "images")
    c.reach("x", c.images * c.pixels * c.channels)
    c.parameters(c.channels, "before")
    c.need(c.sums_channels >= num_blocks(c.channels) * BLOCK, "sums have fewer channels than the map")
    c.reach("sums", c.images * num_parts(c.pixels) * c.sums_channels, write=True)


def _average(c: Job) -> None:
    c.positive("parts", "channels", "images")
    c.need(c.sums_channels >= num_blocks(c.channels) * BLOCK, "sums have fewer channels than the averages")
    c.reach("sums", c.images * c.parts * c.sums_channels)
    c.reach("mean", c.images * c.channels, write=True)


def _pad(c: Job) -> None:
    c.positive("channels")
    c.need(min(c.pixels, c.first, c.inner) >= 0 and c.first + c.inner <= c.channels, "channels leave their pixel")
    c.reach("out", c.pixels * c.channels, write=True)


def _gate(c: Job) -> None:
    c.positive("images", "channels", "hidden", "out_channels")
    c.reach("own", c.images * c.channels)
    c.reach("other", c.images * c.channels, needed=False)
    c.reach("mix", num_blocks(c.channels) * BLOCK, needed=bool(c.other))
    for name, inputs, outputs in (("squeeze", c.channels, c.hidden), ("excite", c.hidden, c.out_channels)):
        whole, count = bool(getattr(c, f"{name}_bytes")), num_blocks(outputs) * BLOCK
        c.reach(f"{name}_bytes", count * inputs, 1, needed=False)
        c.reach(name, count * inputs, needed=not whole)
        c.parameters(outputs, f"{name}_scale")
        c.reach(f"{name}_bias", count)
    c.reach("work", c.images * (num_blocks(c.channels) + num_blocks(c.hidden)) * BLOCK, write=True)
    c.reach("gate", c.images * c.out_channels, write=True)


def _combine(c: Job) -> None:
    c.positive("images", "parts", "x_channels")
    after = c.job.after
    pixels = c.images * after.height * after.width
    c.need(c.parts <= after.height * after.width, "a map has more parts than pixels")
    joined = c.x_channels * (2 if c.second else 1)
    c.need(after.channels == joined, f"{joined} channels are combined to {after.channels}")
    c.need(not c.second or c.x_channels % BLOCK == 0, "two maps side by side need whole blocks")
    c.after(c.images, writes_more=bool(c.sums or c.half))
    for name in ("x", "second"):
        c.reach(name, pixels * c.x_channels, needed=name == "x")
    for name in ("gate", "second_gate"):
        c.reach(name, c.images * c.x_channels, needed=False)
    if c.residual:
        _repeats(c, c.residual_channels, after.channels, 1)
        c.reach("residual", pixels * c.residual_channels)
    c.need(not c.scale or bool(c.bias), "a scale has no bias")
    c.parameters(after.channels, "residual_slope", "scale", "bias", "inner", "half_slope")
    c.reach("sums", c.images * c.parts * num_blocks(after.channels) * BLOCK, needed=False, write=True)
    halves = -(-after.height // 2) * -(-after.width // 2)
    c.reach("half", c.images * halves * after.channels, needed=False, write=True)


def _group_convolve(c: Job) -> None:
    c.positive("height", "width", "groups", "channels", "kernel_height", "kernel_width", "stride_y", "stride_x")
    c.positive("dilation_y", "dilation_x")
    after = c.job.after
    c.need(min(c.images, c.pad_y, c.pad_x) >= 0, "a number is out of its range")
    c.need(after.channels > 0 and after.channels % c.groups == 0, "groups do not divide the channels")
    outputs, taps = after.channels // c.groups, c.kernel_height * c.kernel_width
    depthwise = c.channels == outputs == 1
    whole = depthwise or c.groups == 1 or outputs % BLOCK == 0
    if depthwise:
        count, weights = num_blocks(after.channels) * BLOCK, num_blocks(after.channels)
    else:
        count = (c.groups - 1) * outputs + num_blocks(outputs) * BLOCK
        weights = c.groups * num_blocks(outputs) * c.channels
    c.reach("weight", weights * taps * BLOCK)
    for name in ("bias", "gain", "offset"):
        c.reach(name, count, needed=False)
    for name in (*AFTER, "threshold"):
        c.reach(name, count, of=after, needed=False)
    c.need(not c.gain or bool(c.offset), "a gain has no offset")
    c.need(whole or not after.bits, "signs of groups need whole blocks")
    c.reach("residual", c.images * after.height * after.width * after.channels, needed=False)
    c.reach("x", c.images * c.height * c.width * c.groups * c.channels)
    c.after(c.images)


def _span(c: Job, sizes: Sequence[int], strides: Sequence[int]) -> int:
    """Return the elements from the first to the last of images and dimensions with strides that are not negative."""
    c.need(min(strides) >= 0, "a stride is negative")
    c.need(math.prod(sizes) <= MOST_ELEMENTS, "there are more elements than in any value")
    last: int = sum((size - 1) * stride for size, stride in zip((c.images, *sizes), strides, strict=True))
    return last + 1


def _copy(c: Job) -> None:
    c.positive("images", "size_0", "size_1", "size_2")
    sizes = (c.size_0, c.size_1, c.size_2)
    c.reach("x", _span(c, sizes, (c.x_image, c.x_0, c.x_1, c.x_2)), 1 if c.bytes else FLOAT, needed=False)
    c.reach("out", _span(c, sizes, (c.out_image, c.out_0, c.out_1, c.out_2)), write=True)
    if c.mean or c.std:
        c.reach("mean", c.size_0)
        c.reach("std", c.size_0)


def _unary(c: Job) -> None:
    c.need(c.count >= 0 and c.function in tuple(Function), "a number is out of its range")
    c.reach("x", c.count)
    c.reach("out", c.count, write=True)


def _binary(c: Job) -> None:
    c.positive("images", "size_0", "size_1", "size_2")
    c.need(c.function in tuple(Pair), "a number is out of its range")
    sizes = (c.size_0, c.size_1, c.size_2)
    c.reach("x", _span(c, sizes, (c.x_image, c.x_0, c.x_1, c.x_2)))
    c.reach("y", _span(c, sizes, (c.y_image, c.y_0, c.y_1, c.y_2)))
    c.reach("out", c.images * c.size_0 * c.size_1 * c.size_2, write=True)


def _softmax(c: Job) -> None:
    c.positive("rows", "classes", "inner")
    c.reach("x", c.rows * c.classes * c.inner)
    c.reach("out", c.rows * c.classes * c.inner, write=True)


def _reduce(c: Job) -> None:
    c.positive("images", "size_0", "size_1", "sum_0", "sum_1", "sum_2")
    sizes = (c.size_0, c.size_1, c.sum_0, c.sum_1, c.sum_2)
    c.reach("x", _span(c, sizes, (c.x_image, c.x_0, c.x_1, c.by_0, c.by_1, c.by_2)))
    c.reach("out", c.images * c.size_0 * c.size_1, write=True)


def _layer_norm(c: Job) -> None:
    c.positive("rows", "features")
    c.reach("x", c.rows * c.features)
    for name in ("scale", "shift"):
        c.reach(name, c.features, needed=False)
    c.reach("out", c.rows * c.features, write=True)


RULES: dict[str, Callable[[Job], None]] = {
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
    "group_convolve": _group_convolve,
    "copy": _copy,
    "unary": _unary,
    "binary": _binary,
    "softmax": _softmax,
    "reduce": _reduce,
    "layer_norm": _layer_norm,
}
