"""Operands of kernels that read between strides: values, views of them, and constants."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.deploy.ir.graph import ConstantRef, Input, Value
from bnn_lightning.deploy.ir.types import Images, Size, Type
from bnn_lightning.deploy.kernels.call import Address, Count
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.layout import FLOAT
from bnn_lightning.deploy.planner.lowering import Places
from bnn_lightning.deploy.planner.typed_graph import TypedGraph
from bnn_lightning.deploy.planner.views import dense_strides, memory_strides

Array = NDArray[Any]
Dim = tuple[int, tuple[int, ...]]  # size, and a stride for each operand


@dataclass(frozen=True, eq=False)
class Operand:
    """Floats in memory, as elements with strides.

    Attributes:
        number: Number of the value whose memory holds them; None for a constant.
        values: The constant.
        constant: Its number in the graph; None where it was computed.
        offset: Elements before the first one.
        sizes: Sizes of the dimensions.
        strides: Elements from one place of a dimension to the next; 0 where it has one place.
    """

    number: int | None
    values: Array | None
    constant: int | None
    offset: int
    sizes: tuple[Size, ...]
    strides: tuple[int, ...]

    @classmethod
    def of(cls, values: Array, constant: int | None = None) -> "Operand | None":
        """Return a constant; None where its strides do not fit."""
        strides = dense_strides(values.shape, range(values.ndim))
        return None if strides is None else cls(None, values, constant, 0, values.shape, strides)

    def address(self, constants: ConstantSection, places: Places) -> Address:
        """Return the address of the first element."""
        if self.number is not None:
            return places[self.number] + FLOAT * self.offset
        assert self.values is not None
        return constants.add(self.values, of=self.constant, layout="dense")

    def broadcast(self, sizes: Sequence[Size]) -> list[int]:
        """Return the strides in a shape that it is repeated to."""
        missing = len(sizes) - len(self.sizes)
        known = zip(sizes[missing:], self.sizes, self.strides, strict=True)
        return [0] * missing + [step if size == own else 0 for size, own, step in known]


@dataclass(frozen=True)
class Dims:
    """The dimensions of a dense result in the order in which they lie in memory.

    Attributes:
        images: Strides of the operands along the images.
        count: Number of images.
        dims: The other dimensions, the innermost last.
    """

    images: tuple[int, ...]
    count: Count
    dims: list[Dim]


def operand(graph: TypedGraph, item: Input) -> Operand | None:
    """Return what a node reads as elements with strides; None where these are no floats, or depend on the images."""
    constant = _constant(graph, item)
    if constant is not None:
        return Operand.of(*constant)
    if not isinstance(item, Value) or graph.types[item.number].dtype != "f32":
        return None
    view, of = graph.views[item.number], graph.types[item.number]
    if view is not None and view.root != 0 and view.root != item.number:
        return Operand(graph.origins[view.root], None, None, view.offset, view.sizes, view.strides)
    strides = memory_strides(of)
    return None if strides is None else Operand(item.number, None, None, 0, of.shape, strides)


def _constant(graph: TypedGraph, item: Input) -> tuple[Array, int | None] | None:
    """Return a constant of floats in the shape that it has, and its number if it is one of the graph's."""
    if isinstance(item, ConstantRef):
        values = graph.floats(item)
        kept = graph.graph.constants[item.index].dtype == "f32"
        return None if values is None else (values, item.index if kept else None)
    node, shape = graph.node_of(item), graph.fixed_shape(item.number)
    found = None if node is None or shape is None else _constant(graph, node.inputs[0])
    if found is None or node is None or shape is None:
        return None
    match node.operation:
        case "reshape" | "unsqueeze" | "squeeze":
            return found[0].reshape(shape), None
        case "expand":
            return np.broadcast_to(found[0], shape), None
        case "permute":
            return found[0].transpose(node["dims"]), None
    return None


def in_order(of: Type, sizes: Sequence[Size], strides: Sequence[Sequence[int]]) -> Dims | None:
    """Return the dimensions of a result as it lies in memory.

    Args:
        of: Type of the result.
        sizes: Sizes of dimensions that follow upon each other as those of the result do, which has no others.
        strides: Strides of each operand along these.
    """
    own = memory_strides(of)
    if own is None or of.dtype != "f32" or not of.elements:
        return None
    order = sorted(range(len(own)), key=lambda place: -own[place])
    along = [(sizes[at], tuple(steps[at] for steps in strides)) for at in order if sizes[at] != 1]
    dims = [(size, steps) for size, steps in along if isinstance(size, int)]
    grows = [(size, steps) for size, steps in along if isinstance(size, Images)]
    if not grows:
        return Dims((0,) * len(strides), Count(1), dims)
    return Dims(grows[0][1], Count(0, grows[0][0].each), dims)


def joined(dims: Sequence[Dim], most: int) -> list[Dim] | None:
    """Return at most so many dimensions, where neighbors that all operands read in one stride are one; None for more.

    Example:
        >>> joined([(2, (12, 0)), (3, (4, 0)), (4, (1, 1))], 2)
        [(6, (4, 0)), (4, (1, 1))]
    """
    found = list(dims)
    while len(found) > most:
        for at in range(len(found) - 1):
            (outer, far), (inner, near) = found[at : at + 2]
            if all(a == inner * b for a, b in zip(far, near, strict=True)):
                found[at : at + 2] = [(outer * inner, near)]
                break
        else:
            return None
    return found
