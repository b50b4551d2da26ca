"""A graph for images of one shape: what its values look like, and which native operation may compute them."""

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
from torch import Tensor

from bnn_lightning.deploy.frontend.fresh import pixels, strided
from bnn_lightning.deploy.ir.graph import Input, Node, Value
from bnn_lightning.functional.pack import num_words

if TYPE_CHECKING:
    from bnn_lightning.deploy.runtime.network import LoadedNetwork


@dataclass(frozen=True)
class Signs:
    """The signs of a value, packed for a layer that reads them.

    Attributes:
        value: Number of the value, (N, C, H, W).
        shape: Of the words: (N, H + padding, W + padding, words of a pixel).
        channels: C.
        threshold: Float32 bytes, (C,): the values at and above which a sign is +1.
        groups: Of the layer; each has its own words.
        padding: Pixels above, below, on the left and on the right.
        ones: Whether these are +1; they are -1 otherwise.
    """

    value: int
    shape: tuple[int, int, int, int]
    channels: int
    threshold: bytes
    groups: int
    padding: tuple[int, int, int, int]
    ones: bool

    @property
    def dense(self) -> bool:
        """Whether the bits of all channels follow upon each other."""
        return self.groups == 1 or self.channels // self.groups % 32 == 0

    def thresholds(self) -> Tensor:
        """Return the thresholds, (C,)."""
        return torch.frombuffer(bytearray(self.threshold), dtype=torch.float32)


@dataclass(frozen=True)
class Sums:
    """The sums of a map's channels over parts of it, from which averages are computed.

    Attributes:
        value: Number of the map.
        shape: (N, parts, channels in whole blocks), see `maps.sums_shape`.
        slope: Of a PReLU before, float32 bytes, (C,); empty is none.
    """

    value: int
    shape: tuple[int, int, int]
    slope: bytes = b""


class Half(NamedTuple):
    """Averages over 2x2 of a map: the number of this value, and the slope, in whole blocks, of a PReLU before."""

    number: int
    slope: Tensor | None


# What operations read and write: the floats of a value by its number, what is computed of a value beside them, memory
# of their own by a name. BYTES are the images as they came, where they came in bytes.
Resource: TypeAlias = "int | Signs | Sums | str"
BYTES = -1


class Job(NamedTuple):
    """A call of a kernel: the operation's name, what it is given, and what must live as long as that."""

    operation: str
    structure: ctypes.Structure
    keep: tuple[object, ...] = ()


@dataclass(frozen=True)
class Operation:
    """Native code that computes one value, or signs.

    Attributes:
        result: What it computes.
        reads: What it needs.
        build: Makes the jobs; it is given tensors for all that the operation reads, for its scratch memory, and for the
            result unless only signs of it are wanted. Maps are (N, C, H, W) with channels side by side and without
            gaps, others contiguous. Jobs must hold the addresses where these begin: what comes from outside lies
            elsewhere at the next call.
        scratch: Memory that only these jobs use, by name: its shape in floats.
        emits: Whether the last job has fields for signs (`bits`, `threshold` ..., or `after` with these in it).
        sums: Whether the last job has a field for sums of what it writes.
        halves: Whether the last job has a field for averages over 2x2 of what it writes.
        blocks: Groups of channels that the thresholds of these signs are laid out in, see `functional.pack.spread`.
        any_layout: Whether it reads maps however they lie in memory.
        over: Maps in whose place the result may be written, where nothing else reads them any more: an element is read
            before its place is written, and never after.
    """

    result: "int | Signs | Sums"
    reads: tuple[Resource, ...]
    build: Callable[[Mapping[Resource, Tensor]], list[Job]]
    scratch: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    emits: bool = False
    sums: bool = False
    halves: bool = False
    blocks: int = 1
    any_layout: bool = False
    over: tuple[int, ...] = ()


class TypedGraph:
    """A network's graph, and the shapes of its values for some images.

    Args:
        network: Whose graph it is.
        images: As `forward` takes them.
    """

    def __init__(self, network: "LoadedNetwork", images: Tensor) -> None:
        self.network, self.nodes = network, network.graph.nodes
        self.bytes = images.dtype == torch.uint8
        self._look(images)
        self.users = network.graph.users()

    @property
    def last(self) -> int:
        """The number of the value that is the network's output."""
        return len(self.nodes)

    def shape(self, value: int) -> tuple[int, ...]:
        """Return a value's shape."""
        return tuple(self.metas[value].shape)

    def is_map(self, argument: Input | None) -> bool:
        """Whether an argument is a value, (N, C, H, W), in float32."""
        if not isinstance(argument, Value):
            return False
        meta = self.metas[argument.number]
        return meta.dim() == 4 and meta.dtype == torch.float32 and meta.numel() > 0

    def node_of(self, argument: Input | None) -> Node | None:
        """Return the node that computes an argument; None for images, and what is no value."""
        return self.nodes[argument.number - 1] if isinstance(argument, Value) and argument.number else None

    def only_use(self, argument: Input) -> bool:
        """Whether a value is read once."""
        return isinstance(argument, Value) and len(self.users[argument.number]) == 1

    def signs(
        self, value: int, threshold: Tensor, groups: int, padding: tuple[int, int, int, int], ones: bool
    ) -> Signs:
        """Name the signs that a layer reads.

        Args:
            value: Number of the value.
            threshold: Shape (C,).
            groups: Of the layer.
            padding: Pixels above, below, on the left and on the right.
            ones: Whether these are +1.
        """
        number, channels, height, width = self.shape(value)
        top, bottom, left, right = padding
        shape = (number, height + top + bottom, width + left + right, groups * num_words(channels // groups))
        return Signs(value, shape, channels, threshold.numpy().tobytes(), groups, padding, ones)

    def _look(self, images: Tensor) -> None:
        """Run the graph on shapes alone, and keep what the values look like: `metas`, by number."""
        from torch._subclasses.fake_tensor import FakeTensorMode  # a private name that torch has kept for years

        with FakeTensorMode(allow_non_fake_inputs=True):
            fake = strided(tuple(images.shape), images.stride(), images.dtype)
            results = [pixels(fake)]
            self.network.run_nodes(results[0], results.append)
        self.metas = dict(enumerate(results))
        if self.bytes:
            self.metas[BYTES] = fake

    def roots(self) -> dict[int, int]:
        """Return, for each value, the first one that may lie in the same memory: itself, unless it is a view."""
        first: dict[int, int] = {}
        roots: dict[int, int] = {}
        for number, meta in self.metas.items():
            root = first.setdefault(meta.untyped_storage()._cdata, number)
            node = self.nodes[number - 1] if number > 0 else None
            if root == number and node is not None and node.operation == "reshape":
                # A copy here; of a map with channels side by side it may be a view.
                root = next(iter(node.values()), number)
            roots[number] = roots.get(root, root)
        return roots
