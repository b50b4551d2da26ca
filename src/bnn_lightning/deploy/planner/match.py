"""Pattern matching: read a graph backwards from a value, node by node, as far as one kernel computes it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.deploy.ir.graph import ConstantRef, Input, Node, Value
from bnn_lightning.deploy.kernels.layout import Activation, Pair
from bnn_lightning.deploy.planner.typed_graph import TypedGraph

Array = NDArray[Any]


def constant(graph: TypedGraph, item: Input | None, channels: int, *, elementwise: bool = False) -> Array | None:
    """Return values of channels, (channels,) in float64, that a graph holds; None: it is something else.

    Args:
        graph: The graph.
        item: Input of a node.
        channels: Channels of the map, or features of the rows, that it belongs to.
        elementwise: It is computed with a map element by element: only some shapes are values of channels then.
    """
    shape, node = None, graph.node_of(item)
    if node is not None and node.operation == "reshape" and isinstance(item, Value):
        shape, item = graph.fixed_shape(item.number), node.inputs[0]
        if shape is None:
            return None
    if not isinstance(item, ConstantRef):
        return None
    values = graph.floats(item)
    if values is None or values.size not in (1, channels):
        return None
    shape = values.shape if shape is None else shape
    if elementwise and shape not in ((channels, 1, 1), (1, channels, 1, 1)) and (values.size > 1 or len(shape) > 4):
        return None
    return np.broadcast_to(values.astype(np.float64).ravel(), channels)


@dataclass
class Chain:
    """A walk from a value towards the images.

    Attributes:
        graph: The graph.
        top: The value that is to be computed.
        at: The value that has been reached.
    """

    graph: TypedGraph
    top: Value
    at: Input

    @classmethod
    def from_value(cls, graph: TypedGraph, item: Input) -> "Chain":
        """Begin at a value."""
        assert isinstance(item, Value)
        return cls(graph, item, item)

    def node(self, *operations: str) -> Node | None:
        """Return the node that computes the value reached, if it is one of these and computed for nothing else."""
        node = self.graph.node_of(self.at)
        alone = self.at == self.top or self.graph.only_use(self.at)
        return node if node is not None and alone and node.operation in operations else None

    def over(self, operand: Input) -> bool:
        """Step on to an operand whose elements become those of the value reached, one by one; whether they do."""
        if not isinstance(operand, Value) or not isinstance(self.at, Value):
            return False
        shape = self.graph.map_shape(operand)
        same = self.graph.types[operand.number] == self.graph.types[self.at.number]
        alike = same or (shape is not None and shape == self.graph.map_shape(self.at))
        self.at = operand if alike else self.at
        return alike

    def clamp(self) -> tuple[float, float]:
        """Step over a clamp, and return its bounds."""
        node = self.node("clamp")
        if node is None or not self.over(node.inputs[0]):
            return -math.inf, math.inf
        low, high = node["low"], node["high"]
        return -math.inf if low is None else float(low), math.inf if high is None else float(high)

    def slope(self, channels: int) -> Array | None:
        """Step over a PReLU or ReLU, and return its slopes."""
        node = self.node("prelu", "relu")
        if node is None:
            return None
        slopes = np.zeros(channels) if node.operation == "relu" else constant(self.graph, node.inputs[1], channels)
        return slopes if slopes is not None and self.over(node.inputs[0]) else None

    def affine(self, channels: int) -> tuple[Array, Array] | None:
        """Step over an affine map of channels, and return its scale and shift; two together would be rounded once."""
        node = self.node("affine")
        if node is None:
            return None
        scale, shift = (constant(self.graph, item, channels) for item in node.inputs[1:])
        if scale is None or shift is None or not self.over(node.inputs[0]):
            return None
        return scale, shift

    def activation(self, channels: int) -> Activation:
        """Step over what kernels do last: a clamp, and a PReLU before it."""
        low, high = self.clamp()
        relu = self.node("relu")
        if relu is not None and self.over(relu.inputs[0]):  # a bound: as a slope of 0 it makes NaN of -inf
            return Activation(channels, low=max(0.0, low), high=high)
        return Activation(channels, slope=self.slope(channels), low=low, high=high)

    def normalization(self, channels: int) -> tuple[Array, Array] | None:
        """Step over `(x - mean) / std`, and return both."""
        division = self.node("div")
        if division is None or len(division.inputs) != 2:
            return None
        std = constant(self.graph, division.inputs[1], channels, elementwise=True)
        inside = Chain(self.graph, self.top, self.at)
        if not inside.over(division.inputs[0]):
            return None
        difference = inside.node("sub")
        if difference is None or len(difference.inputs) != 2:
            return None
        mean = constant(self.graph, difference.inputs[1], channels, elementwise=True)
        if std is None or mean is None or not inside.over(difference.inputs[0]):
            return None
        self.at = inside.at
        return mean, std

    def zeros(self) -> tuple[Pair, Pair] | None:
        """Step over zeros around a map; return those above and on the left, and how many more lie opposite."""
        node = self.node("pad")
        if node is None or node["mode"] != "constant" or node["value"] not in (None, 0):
            return None
        left, right, top, bottom, *others = (*node["padding"], 0, 0)[: max(4, len(node["padding"]))]
        if any(others) or min(top, left) < 0 or bottom < top or right < left:
            return None
        self.at = node.inputs[0]
        return (top, left), (bottom - top, right - left)

    def halving(self) -> bool:
        """Step over averages over 2x2, that keep what is left of an odd side."""
        node = self.node("avg_pool2d")
        shape = None if node is None else self.graph.map_shape(node.inputs[0])
        if node is None or shape is None:
            return False
        even = all(side % 2 == 0 for side in shape[1:])
        windows = tuple(pair(node[name]) for name in ("kernel_size", "stride", "padding"))
        plain = windows == ((2, 2), (2, 2), (0, 0)) and node["divisor_override"] is None
        if not plain or not (node["ceil_mode"] or even):
            return False
        self.at = node.inputs[0]
        return True


def pair(values: Sequence[int]) -> Pair:
    """Return a list of two whole numbers as a tuple."""
    return values[0], values[1]
