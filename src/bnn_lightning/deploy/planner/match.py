"""Read a graph backwards from a value: what stands before it, node by node, as far as one kernel computes it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bnn_lightning.deploy.frontend.fresh import CPU
from bnn_lightning.deploy.ir.graph import ConstantRef, Input, Node, Value
from bnn_lightning.deploy.kernels.layout import Activation
from bnn_lightning.deploy.planner.typed_graph import TypedGraph


def constant(graph: TypedGraph, argument: Input | None, channels: int, *, elementwise: bool = False) -> Tensor | None:
    """Return values of channels, (channels,) in float64, that a file holds; None: it is something else.

    Args:
        graph: The graph.
        argument: Input of a node.
        channels: Of the map, or the rows, that it belongs to.
        elementwise: It is computed with a map element by element: only some shapes are values of channels then.
    """
    shape, node = None, graph.node_of(argument)
    if node is not None and node.operation == "reshape" and isinstance(argument, Value):
        shape, argument = graph.shape(argument.number), node.inputs[0]
    if not isinstance(argument, ConstantRef):
        return None
    stored = graph.network.constant(argument)
    shape = tuple(stored.shape) if shape is None else shape
    if not stored.is_floating_point() or stored.numel() not in (1, channels):
        return None
    if elementwise and shape not in ((channels, 1, 1), (1, channels, 1, 1)) and (stored.numel() > 1 or len(shape) > 4):
        return None
    return stored.detach().double().flatten().expand(channels)


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
    def from_value(cls, graph: TypedGraph, argument: Input) -> "Chain":
        """Begin at a value."""
        assert isinstance(argument, Value)
        return cls(graph, argument, argument)

    def node(self, *operations: str) -> Node | None:
        """Return the node that computes the value reached, if it is one of these and computed for nothing else."""
        node = self.graph.node_of(self.at)
        alone = self.at == self.top or self.graph.only_use(self.at)
        return node if node is not None and alone and node.operation in operations else None

    def over(self, operand: Input) -> bool:
        """Step on to an operand whose elements become those of the value reached, one by one; whether they do."""
        if not isinstance(operand, Value) or not isinstance(self.at, Value):
            return False
        before, after = self.graph.metas[operand.number], self.graph.metas[self.at.number]
        alike = before.shape == after.shape and before.dtype == after.dtype
        self.at = operand if alike else self.at
        return alike

    def clamp(self) -> tuple[float | None, float | None]:
        """Step over a clamp, and return its bounds."""
        node = self.node("clamp")
        if node is None or not self.over(node.inputs[0]):
            return None, None
        return _bound(node["low"], -math.inf), _bound(node["high"], math.inf)

    def slope(self, channels: int) -> Tensor | None:
        """Step over a PReLU or ReLU, and return its slopes."""
        node = self.node("prelu", "relu")
        slopes = None
        if node is not None:
            zeros = torch.zeros(channels, dtype=torch.float64, device=CPU)
            slopes = zeros if node.operation == "relu" else constant(self.graph, node.inputs[1], channels)
        return slopes if node is not None and slopes is not None and self.over(node.inputs[0]) else None

    def affine(self, channels: int) -> tuple[Tensor, Tensor] | None:
        """Step over an affine map of channels, and return its scale and shift; two together would be rounded once."""
        node = self.node("affine")
        values = [] if node is None else [constant(self.graph, item, channels) for item in node.inputs[1:]]
        if node is None or len(values) != 2 or values[0] is None or values[1] is None:
            return None
        if not self.over(node.inputs[0]):
            return None
        return values[0], values[1]

    def activation(self, channels: int) -> Activation:
        """Step over what kernels do last: a clamp, and a PReLU before it."""
        low, high = self.clamp()
        relu = self.node("relu")
        if relu is not None and self.over(relu.inputs[0]):  # a bound: as a slope of 0 it makes NaN of -inf
            return Activation(channels, low=max(0.0, -math.inf if low is None else low), high=high)
        return Activation(channels, slope=self.slope(channels), low=low, high=high)

    def normalisation(self, channels: int) -> tuple[Tensor, Tensor] | None:
        """Step over `(x - mean) / std`, and return both."""
        division = self.node("div")
        if division is None:
            return None
        std = constant(self.graph, division.input(1), channels, elementwise=True)
        inside = Chain(self.graph, self.top, self.at)
        if not inside.over(division.inputs[0]):
            return None
        difference = inside.node("sub")
        mean = None if difference is None else constant(self.graph, difference.input(1), channels, elementwise=True)
        if std is None or mean is None or difference is None or not inside.over(difference.inputs[0]):
            return None
        self.at = inside.at
        return mean, std

    def halving(self) -> bool:
        """Step over averages over 2x2, that keep what is left of an odd side."""
        node = self.node("avg_pool2d")
        if node is None or not self.graph.is_map(node.inputs[0]):
            return False
        window = [pair(node, name) for name in ("kernel_size", "stride", "padding")]
        sides = self.graph.metas[node.inputs[0].number].shape[2:]  # type: ignore[union-attr]
        even = all(side % 2 == 0 for side in sides)
        odd = node["divisor_override"] is not None or not (node["ceil_mode"] or even)
        if window != [(2, 2), (2, 2), (0, 0)] or odd:
            return False
        self.at = node.inputs[0]
        return True


def pair(node: Node, name: str) -> tuple[int, int]:
    """Return an attribute of two whole numbers."""
    first, second = node[name]
    return first, second


def _bound(bound: float | None, free: float) -> float | None:
    """Return a bound; None where there is none, or the one that leaves everything free."""
    return None if bound is None or bound == free else float(bound)
