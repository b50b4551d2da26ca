"""Kernel calls that compute values of a graph, and the resources that they read and write: values, signs, sums."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.deploy.kernels.binary_conv import PackedMap
from bnn_lightning.deploy.kernels.call import Address, KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.layout import Shape, num_words
from bnn_lightning.deploy.kernels.pool import sums_size

Array = NDArray[Any]


@dataclass(frozen=True)
class Size:
    """Bytes: fixed + N * per_image for N images.

    Example:
        >>> Size(64, 128).at(3)
        448
    """

    fixed: int = 0
    per_image: int = 0

    def at(self, images: int) -> int:
        """Return the bytes for a number of images."""
        return self.fixed + images * self.per_image


@dataclass(frozen=True)
class Signs:
    """The signs of a map, packed for a layer that reads them.

    Attributes:
        value: Number of the map.
        shape: Shape of the map.
        threshold: Float32 bytes, (C,): the values at and above which a sign is +1.
        groups: Groups of the layer; each has its own words.
        padding: Pixels above, below, on the left and on the right.
        ones: Whether these are +1; they are -1 otherwise.
    """

    value: int
    shape: Shape
    threshold: bytes
    groups: int
    padding: tuple[int, int, int, int]
    ones: bool

    @property
    def dense(self) -> bool:
        """Whether the bits of all channels follow upon each other."""
        return self.groups == 1 or self.shape[0] // self.groups % 32 == 0

    @property
    def thresholds(self) -> Array:
        """The thresholds, (C,)."""
        return np.frombuffer(self.threshold, np.float32)

    @property
    def kind(self) -> tuple[object, ...]:
        """Key of signs that may share memory: the same pixels lie around them, which are written once."""
        return self.shape, self.groups, self.padding, self.ones

    def at(self, address: Address) -> PackedMap:
        """Return the packed map at an address."""
        (channels, height, width), (top, bottom, left, right) = self.shape, self.padding
        words = self.groups * num_words(channels // self.groups)
        return PackedMap(address, height + top + bottom, width + left + right, words, top, left)

    @property
    def size(self) -> int:
        """Bytes of an image."""
        (channels, height, width), (top, bottom, left, right) = self.shape, self.padding
        words = self.groups * num_words(channels // self.groups)
        return 4 * (height + top + bottom) * (width + left + right) * words


@dataclass(frozen=True)
class Sums:
    """The sums of a map's channels over parts of it, from which averages are computed.

    Attributes:
        value: Number of the map.
        shape: Shape of the map.
        slope: Slopes of a PReLU before, float32 bytes, (C,); empty is none.
    """

    value: int
    shape: Shape
    slope: bytes = b""

    @property
    def slopes(self) -> Array | None:
        """The slopes, (C,); None is none."""
        return np.frombuffer(self.slope, np.float32) if self.slope else None

    @property
    def size(self) -> int:
        """Bytes of an image."""
        return sums_size(self.shape)


@dataclass(frozen=True, eq=False)
class Half:
    """Averages over 2x2 of a map.

    Attributes:
        number: Number of the value that they are.
        slope: Slopes of a PReLU before, (C,); None is none.
    """

    number: int
    slope: Array | None


# A resource is read or written by calls: the floats of a value by its number, signs or sums of a value, or scratch
# memory by a name. IMAGES are the images as they come, (N, C, H, W); the value 0 is the same as a map of floats.
Resource: TypeAlias = int | Signs | Sums | str
IMAGES = -1
Places: TypeAlias = Mapping[Resource, Address]


@dataclass(frozen=True, eq=False)
class Lowering:
    """Kernel calls that compute one value, or signs or sums of it.

    Attributes:
        result: The resource that they compute.
        reads: The resources that they need.
        build: Makes the calls; it is given addresses for all that they read, for scratch memory, and for the result
            unless only signs, sums or averages of it are wanted. Maps have channels side by side, others are dense.
        scratch: Memory that only these calls use, by name.
        emits: Whether the last call can write signs of what it computes.
        sums: Whether the last call can write sums of what it computes.
        halves: Whether the last call can write averages over 2x2 of what it computes.
        blocks: Groups of channels that the thresholds of these signs are laid out in, see `layout.spread`.
        over: Maps in whose place the result may be written, where nothing else reads them any more: an element is read
            before its place is written, and never after.
    """

    result: "int | Signs | Sums"
    reads: tuple[Resource, ...]
    build: Callable[[ConstantSection, Places], list[KernelCall]]
    scratch: Mapping[str, Size] = field(default_factory=dict)
    emits: bool = False
    sums: bool = False
    halves: bool = False
    blocks: int = 1
    over: tuple[int, ...] = ()
