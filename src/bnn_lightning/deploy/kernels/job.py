"""Kernel calls under verification, and the memory of a context that they must stay in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from numpy.typing import NDArray

from bnn_lightning.deploy.kernels.abi import AFTER, field_offsets
from bnn_lightning.deploy.kernels.call import Address, Count, KernelCall, Region
from bnn_lightning.deploy.kernels.layout import BLOCK, FLOAT, num_blocks

Array = NDArray[Any]
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


class Job:
    """Kernel call under verification: its fields, and the demands that rules make of them."""

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
        self, name: str, count: int, size: int = FLOAT, *, of: Any = None, needed: bool = True, write: bool = False
    ) -> None:
        """Demand that so many elements lie where a field points, if it points anywhere."""
        address = getattr(self.job if of is None else of, name)
        self.need(isinstance(address, Address) or not needed, f"`{name}` points nowhere")
        if not isinstance(address, Address):
            return
        begin, bytes_, region = address.at(self.memory.images), count * size, address.region
        self.need(address.offset >= 0 and address.per_image >= 0, f"`{name}` begins before its region")
        self.need(address.offset % size == address.per_image % size == 0, f"`{name}` begins within an element")
        self.need(not write or region in _WRITABLE, f"`{name}` is written, and lies in the {region.name.lower()}")
        inside = begin + bytes_ <= self.memory.sizes.get(region, 0) and bytes_ < _MOST
        self.need(inside, f"{bytes_} bytes of `{name}` do not lie in the {region.name.lower()}")

    def parameters(self, channels: int, *names: str, of: Any = None) -> None:
        """Demand values for whole blocks of channels where these fields point anywhere."""
        for name in names:
            self.reach(name, num_blocks(channels) * BLOCK, of=of, needed=False)

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

    def after(
        self, images: int, *, height: int | None = None, width: int | None = None, writes_more: bool = False
    ) -> None:
        """Demand room for the epilogue of a sum, and that it or something more is written."""
        after = self.job.after
        height, width = after.height if height is None else height, after.width if width is None else width
        self.need(min(height, width, after.channels) > 0, "a result has no pixels or no channels")
        self.need(after.out_channels >= after.channels, "a result has more channels than its memory")
        self.parameters(after.channels, "threshold", *AFTER, of=after)
        pixels = images * height * width
        self.reach(
            "out", max(0, (pixels - 1) * after.out_channels + after.channels), of=after, needed=False, write=True
        )
        self.signs(after, images, height, width, num_blocks(after.channels))
        self.need(bool(after.out or after.bits or writes_more), "a call writes nothing")
