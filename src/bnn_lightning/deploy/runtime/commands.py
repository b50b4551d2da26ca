"""Plans as memory that kernels read: argument structures, filled from the fields of calls, and working memory."""

import ctypes
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.deploy.kernels.abi import KERNELS, field_offsets
from bnn_lightning.deploy.kernels.call import Address, Count, KernelCall, Region
from bnn_lightning.deploy.kernels.derive import compute
from bnn_lightning.deploy.planner.plan import Plan, TorchCall

Array = NDArray[Any]
_ALIGN = 64
_POINTER = np.dtype(np.uintp)


def memory_of(size: int, *, zero: bool = False) -> Array:
    """Return bytes that begin at a line of the cache."""
    raw = (np.zeros if zero else np.empty)(size + _ALIGN, np.uint8)
    first = -raw.ctypes.data % _ALIGN
    return raw[first : first + size]


@dataclass(frozen=True, eq=False)
class _Pointers:
    """Places of addresses in the structures, and where these point to."""

    places: Array
    regions: Array
    offsets: Array
    per_image: Array

    @classmethod
    def of(cls, found: list[tuple[int, Address]]) -> "_Pointers":
        rows = [(place, address.region, address.offset, address.per_image) for place, address in found]
        columns = np.array(rows, np.int64).reshape(-1, 4).T
        return cls(columns[0], columns[1], columns[2], columns[3])


@dataclass(frozen=True)
class Row:
    """Kernel calls that follow upon each other without torch in between: some of all calls."""

    first: int
    end: int


class Commands:
    """The calls of a plan as argument structures, and the constants that its contexts share.

    Args:
        plan: The plan.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.kernels: list[str] = []
        self.starts: list[int] = []  # of the structure of each call, in bytes
        self.items: list[Row | TorchCall] = []
        inside: list[tuple[int, Address]] = []
        outside: list[tuple[int, Address]] = []
        counts: list[tuple[int, int, int]] = []
        fixed: list[tuple[int, Any, int | float]] = []
        end = 0
        for call in plan.calls:
            if isinstance(call, TorchCall):
                self.items.append(call)
                continue
            self._append(call, end)
            places = field_offsets(call.kernel)
            for name, value in call.fields.items():
                place, kind = places[name]
                if isinstance(value, Address):
                    where = outside if value.region in (Region.INPUT, Region.OUTPUT) else inside
                    where.append(((end + place) // _POINTER.itemsize, value))
                elif isinstance(value, Count):
                    counts.append(((end + place) // 8, value.fixed, value.per_image))
                else:
                    fixed.append((end + place, kind, value))
            end += -(-ctypes.sizeof(KERNELS[call.kernel]) // _ALIGN) * _ALIGN
        self._template = memory_of(end, zero=True)
        for place, kind, value in fixed:
            kind.from_buffer(self._template, place).value = value
        self._inside, self._outside = _Pointers.of(inside), _Pointers.of(outside)
        self._counts = np.array(counts, np.int64).reshape(-1, 3).T

    def _append(self, call: KernelCall, start: int) -> None:
        number = len(self.kernels)
        self.kernels.append(call.kernel)
        self.starts.append(start)
        if self.items and isinstance(self.items[-1], Row):
            self.items[-1] = Row(self.items[-1].first, number + 1)
        else:
            self.items.append(Row(number, number + 1))

    @cached_property
    def constants(self) -> Array:
        """The section of constants."""
        raw = np.frombuffer(self.plan.constants, np.uint8)
        if raw.size and raw.ctypes.data % _ALIGN:
            aligned = memory_of(raw.size)
            aligned[:] = raw
            return aligned
        return raw

    @cached_property
    def derived(self) -> Array:
        """The region DERIVED, computed once."""
        memory = memory_of(self.plan.derived_size)
        compute(self.plan.derived, self.constants, memory)
        return memory


class Context:
    """Argument structures and working memory, for one call at a time.

    Args:
        commands: Of a plan.
        most: Most images of a call.
    """

    def __init__(self, commands: Commands, most: int) -> None:
        plan = commands.plan
        self.commands, self.most = commands, most
        self.arena = memory_of(plan.arena.at(most))
        self.signs = memory_of(plan.signs.at(most), zero=True)
        for fill in plan.fills:
            begin, size = fill.address.at(most), fill.size.at(most)
            self.signs[begin : begin + size] = np.resize(np.frombuffer(fill.pattern, np.uint8), size)
        self.structures = memory_of(commands._template.size)
        self.structures[:] = commands._template
        self._pointers, self._numbers = self.structures.view(_POINTER), self.structures.view(np.int64)
        bases = [m.ctypes.data for m in (commands.constants, commands.derived, self.arena, self.signs)]
        inside = commands._inside
        addresses = np.array(bases, np.int64)[inside.regions] + inside.offsets + most * inside.per_image
        self._pointers[inside.places] = addresses.astype(_POINTER)
        self._images = 0

    def set(self, images: int, inputs: int, outputs: int) -> None:
        """Set the number of images, and the addresses of images and logits."""
        outside = self.commands._outside
        bases = np.array([0, 0, 0, 0, inputs, outputs], np.int64)
        self._pointers[outside.places] = (bases[outside.regions] + outside.offsets).astype(_POINTER)
        if images != self._images:
            places, fixed, per_image = self.commands._counts
            self._numbers[places] = fixed + images * per_image
            self._images = images

    def memory(self, address: Address, size: int) -> Array:
        """Return some bytes of the arena."""
        begin = address.at(self.most)
        return self.arena[begin : begin + size]
