"""The section of constants of a plan: arrays as kernels read them, each once, and what is derived from them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.deploy.kernels.call import Address, Region

Array = NDArray[Any]
ALIGN = 64  # bytes: a line of the cache


@dataclass(frozen=True)
class Derived:
    """A constant that is computed when a plan is opened.

    Attributes:
        kind: Name of the computation, a key of `derive.KINDS`.
        source: Address of the constant that it is computed from.
        address: Address of the result, in the region DERIVED.
        arguments: Whole numbers of the computation.
    """

    kind: str
    source: Address
    address: Address
    arguments: tuple[int, ...] = ()


@dataclass(frozen=True)
class Placement:
    """The place of a constant of the graph in the section.

    Attributes:
        offset: First byte.
        layout: Layout in the section, one of `format.layouts.LAYOUTS`.
        groups: Groups of channels that the layout divides it into.
    """

    offset: int
    layout: str
    groups: int = 1


class ConstantSection:
    """Bytes that grow; equal arrays share a place, those that differ by zeros at the end of a line of 64, too.

    Example:
        >>> section = ConstantSection()
        >>> section.add(np.ones(2, np.float32)) == section.add(np.ones(2, np.float32))
        True
        >>> section.add(np.zeros(2, np.float32)).offset, len(section.data)
        (64, 128)
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self.placements: dict[int, Placement] = {}
        self.derived: list[Derived] = []
        self.derived_size = 0
        self._places: dict[bytes, int] = {}
        self._derived: dict[tuple[object, ...], Address] = {}

    def add(self, values: Array, *, of: int | None = None, layout: str = "", groups: int = 1) -> Address:
        """Return the address of an array, which is appended if it is new.

        Args:
            values: Values of any type, little-endian in the section.
            of: Number of the constant of the graph that this is, if it is one in another layout.
            layout: Name of that layout.
            groups: Groups that it divides the constant into.
        """
        raw = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
        raw += bytes(-len(raw) % ALIGN)
        if raw not in self._places:
            self._places[raw] = len(self.data)
            self.data += raw
        place = self._places[raw]
        if of is not None:
            self.placements.setdefault(of, Placement(place, layout, groups))
        return Address(Region.CONSTANTS, place)

    def optional(self, values: Array | None) -> Address | None:
        """Return the address of an array, None for none."""
        return None if values is None else self.add(values)

    def derive(self, kind: str, source: Address, size: int, *arguments: int) -> Address:
        """Return the address of a constant that is computed from another one when the plan is opened.

        Args:
            kind: Name of the computation.
            source: Constant that it is computed from.
            size: Bytes of the result.
            arguments: Whole numbers of the computation.
        """
        key = (kind, source, arguments)
        if key not in self._derived:
            address = Address(Region.DERIVED, self.derived_size)
            self.derived.append(Derived(kind, source, address, arguments))
            self.derived_size += size + -size % ALIGN
            self._derived[key] = address
        return self._derived[key]
