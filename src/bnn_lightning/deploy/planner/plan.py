"""Plans: the kernel calls of a network, their constants and their memory, for any number of images.

A plan depends on neither the number of images, nor threads, nor instruction sets. Addresses belong to named fields, so
that nothing searches memory for them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from bnn_lightning.deploy.kernels.call import Address, Count, Field, KernelCall, Region
from bnn_lightning.deploy.kernels.constants import Derived
from bnn_lightning.deploy.planner.lowering import Size

__all__ = [
    "Address",
    "Count",
    "Derived",
    "Field",
    "Fill",
    "KernelCall",
    "Plan",
    "Region",
    "Size",
    "TorchCall",
]


@dataclass(frozen=True)
class TorchCall:
    """A node that torch computes.

    Attributes:
        node: Number of its value.
        reads: Address of each value that it reads, by the value's number.
        writes: Address of its result.
    """

    node: int
    reads: Mapping[int, Address]
    writes: Address


@dataclass(frozen=True)
class Fill:
    """Memory that a context writes once, before its first call: signs whose padding is +1.

    Attributes:
        address: First byte.
        size: Bytes, a multiple of the pattern's.
        pattern: Bytes that are repeated.
    """

    address: Address
    size: Count
    pattern: bytes


@dataclass(frozen=True)
class Plan:
    """Everything that runs a network, for any number of images.

    Attributes:
        calls: In order.
        constants: Section of constants, the region CONSTANTS.
        derived: Computations that fill the region DERIVED, in order.
        derived_size: Bytes of that region.
        arena: Bytes of the region ARENA.
        signs: Bytes of the region SIGNS, which is zero before its fills.
        fills: Signs of padding, written once by a context.
        in_shape: Channels, height and width of an image.
        takes_bytes: Whether images come as bytes, (N, C, H, W), and not as float32 of that shape.
        num_classes: Columns of the logits, (N, num_classes) in float32.
    """

    calls: tuple[KernelCall | TorchCall, ...]
    constants: bytes | bytearray | memoryview
    derived: tuple[Derived, ...]
    derived_size: int
    arena: Size
    signs: Size
    fills: tuple[Fill, ...]
    in_shape: tuple[int, int, int]
    takes_bytes: bool
    num_classes: int

    @property
    def torch_nodes(self) -> tuple[int, ...]:
        """The numbers of the values that torch computes; a plan without any runs without torch."""
        return tuple(call.node for call in self.calls if isinstance(call, TorchCall))
