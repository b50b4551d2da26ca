"""Kernel calls of a plan: which kernel runs, with which arguments, at which addresses; no torch, no ctypes."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias


class Region(IntEnum):
    """Memory that addresses of a plan begin in.

    Attributes:
        CONSTANTS: Section of constants of a file, mapped and shared.
        DERIVED: Constants computed when a plan is opened, shared.
        ARENA: Floats and scratch memory of a context.
        SIGNS: Packed signs of a context; their padding is written once.
        INPUT: Images of a call.
        OUTPUT: Logits of a call.
    """

    CONSTANTS = 0
    DERIVED = 1
    ARENA = 2
    SIGNS = 3
    INPUT = 4
    OUTPUT = 5


@dataclass(frozen=True)
class Address:
    """A place in memory: the region's base + offset + N * per_image, in bytes, for N images.

    Example:
        >>> Address(Region.ARENA, 64, 128).at(3)
        448
    """

    region: Region
    offset: int = 0
    per_image: int = 0

    def at(self, images: int) -> int:
        """Return the offset in the region for a number of images."""
        return self.offset + images * self.per_image

    def __add__(self, step: int) -> "Address":
        """Return the address so many bytes behind this one."""
        return Address(self.region, self.offset + step, self.per_image)


@dataclass(frozen=True)
class Count:
    """A whole number that depends on the number of images N: fixed + N * per_image.

    Example:
        >>> Count(1, 4).at(3)
        13
    """

    fixed: int = 0
    per_image: int = 0

    def at(self, images: int) -> int:
        """Return the number for a number of images."""
        return self.fixed + images * self.per_image


Field: TypeAlias = int | float | Count | Address


@dataclass(frozen=True)
class KernelCall:
    """A call of a kernel.

    Attributes:
        kernel: Name of the kernel, such as "convolve".
        fields: Fields of the kernel's structure by name, `after.out` for one of a structure in it. Absent fields are 0.
        node: Number of the value that it computes, or that its signs, sums or averages are of.
    """

    kernel: str
    fields: Mapping[str, Field]
    node: int = 0
