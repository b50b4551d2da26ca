"""A graph with the types of its values, as lowering reads it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.deploy.ir.graph import ConstantRef, Graph, Input, Node, Value
from bnn_lightning.deploy.ir.types import Images, Type
from bnn_lightning.deploy.kernels.call import Address, Region
from bnn_lightning.deploy.kernels.layout import Map, Shape
from bnn_lightning.deploy.planner.lowering import IMAGES, Places, Size
from bnn_lightning.deploy.planner.views import is_whole, views_of

Array = NDArray[Any]
_BYTES = {"f32": 4, "i8": 1, "i32": 4, "i64": 8}


_IMAGES = Images(1)


def size_of(of: Type) -> Size:
    """Return the bytes of a value.

    Example:
        >>> size_of(Type((Images(2), 5)))
        Size(fixed=0, per_image=40)
    """
    size = of.elements * _BYTES[of.dtype]
    return Size(0, size) if of.grows else Size(size)


class TypedGraph:
    """A graph and the types of its values.

    Args:
        graph: The graph.
        types: Types of the images and of the result of each node.
        takes_bytes: Whether images come as bytes.
    """

    def __init__(self, graph: Graph, types: Sequence[Type], *, takes_bytes: bool) -> None:
        self.graph, self.types = graph, types
        self.views = views_of(graph.nodes, types)
        self.origins = [self._origin(number) for number in range(len(types))]
        self.nodes = tuple(self._with_origins(node) for node in graph.nodes)
        self.users: dict[int, list[int]] = {}
        for place, node in enumerate(self.nodes):
            if self.origins[place + 1] == place + 1:
                for value in node.values():
                    self.users.setdefault(value, []).append(place)
        _, channels, height, width = types[0].for_images(1)
        self.images = Map(Address(Region.INPUT), (channels, height, width), planar=True, in_bytes=takes_bytes)
        self._arrays: dict[int, Array] = {}

    def _origin(self, number: int) -> int:
        """Return the first value that is the same map, or the same rows, in memory."""
        view, shape = self.views[number], self.map_shape(Value(number))
        if view is None or view.root == 0 or shape is None or shape != self.map_shape(Value(view.root)):
            return number
        return view.root if is_whole(view, self.types[number], self.types[view.root]) else number

    def _with_origins(self, node: Node) -> Node:
        """Return a node that reads the first values that lie in memory as its inputs do."""
        inputs = [Value(self.origins[item.number]) if isinstance(item, Value) else item for item in node.inputs]
        return replace(node, inputs=tuple(inputs))

    @property
    def last(self) -> int:
        """The number of the value that is the network's output."""
        return self.origins[-1]

    def node_of(self, item: Input | None) -> Node | None:
        """Return the node that computes an input; None for images, and what is no value."""
        return self.nodes[item.number - 1] if isinstance(item, Value) and item.number else None

    def only_use(self, item: Input) -> bool:
        """Whether a value is read once."""
        return isinstance(item, Value) and len(self.users.get(item.number, ())) == 1

    def map_shape(self, item: Input) -> Shape | None:
        """Return the shape of a map of floats, (N, C, H, W), without N; None for what is none.

        Rows, (N, C), are maps of one pixel; so are those of binary linear layers, which hold them as (1, C, 1, N).
        """
        if not isinstance(item, Value):
            return None
        match self.types[item.number]:
            case Type((first, int(channels), int(height), int(width)), "f32") if first == _IMAGES:
                return (channels, height, width) if channels * height * width else None
            case Type((1, int(channels), 1, last), "f32") if last == _IMAGES and channels:
                return channels, 1, 1
            case Type((first, int(channels)), "f32") if first == _IMAGES and channels:
                return channels, 1, 1
        return None

    def fixed_shape(self, number: int) -> tuple[int, ...] | None:
        """Return the shape of a value that does not depend on the images; None for others."""
        of = self.types[number]
        return None if of.grows else of.for_images(1)

    def array(self, item: ConstantRef) -> Array:
        """Return a constant of the graph; signs as -1 and +1."""
        if item.index not in self._arrays:
            self._arrays[item.index] = self.graph.constants[item.index].array
        return self._arrays[item.index]

    def floats(self, item: ConstantRef) -> Array | None:
        """Return a constant of the graph in float32, None for one of whole numbers."""
        if self.graph.constants[item.index].dtype not in ("f32", "bits"):
            return None
        return self.array(item).astype(np.float32, copy=False)

    def map_at(self, number: int, places: Places) -> Map:
        """Return the place of a map of floats, or of the images as they come."""
        if number == IMAGES:
            return self.images
        return Map(places[number], self._shape(number))

    def map_like(self, number: int) -> Map:
        """Return a map of floats like a value, wherever it lies."""
        return Map(Address(Region.ARENA), self._shape(number))

    def _shape(self, number: int) -> Shape:
        shape = self.map_shape(Value(number))
        assert shape is not None, f"Value {number} is no map."
        return shape
