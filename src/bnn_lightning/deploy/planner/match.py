"""Read a program backwards from a value: what stands before it, step by step, as far as one kernel computes it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bnn_lightning.deploy.frontend.fresh import CPU
from bnn_lightning.deploy.ir.graph import Argument, Step, Stored, Value
from bnn_lightning.deploy.kernels.layout import Activation
from bnn_lightning.deploy.planner.typed_graph import Graph


def constant(graph: Graph, argument: Argument, channels: int, *, elementwise: bool = False) -> Tensor | None:
    """Return values of channels, (channels,) in float64, that a file holds; None: it is something else.

    Args:
        graph: The program.
        argument: Of a step.
        channels: Of the map, or the rows, that it belongs to.
        elementwise: It is computed with a map element by element: only some shapes are values of channels then.
    """
    shape, step = None, graph.step_of(argument)
    if step is not None and step.operation == "reshape" and isinstance(argument, Value):
        shape, argument = graph.shape(argument.number), step.arguments[0]
    if not isinstance(argument, Stored):
        return None
    stored = graph.network.stored(argument)
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
        graph: The program.
        top: The value that is to be computed.
        at: The value that has been reached.
    """

    graph: Graph
    top: Value
    at: Argument

    @classmethod
    def from_value(cls, graph: Graph, argument: Argument) -> "Chain":
        """Begin at a value."""
        assert isinstance(argument, Value)
        return cls(graph, argument, argument)

    def step(self, *operations: str) -> Step | None:
        """Return the step that computes the value reached, if it is one of these and computed for nothing else."""
        step = self.graph.step_of(self.at)
        alone = self.at == self.top or self.graph.only_use(self.at)
        return step if step is not None and alone and step.operation in operations else None

    def over(self, operand: Argument) -> bool:
        """Step on to an operand whose elements become those of the value reached, one by one; whether they do."""
        if not isinstance(operand, Value) or not isinstance(self.at, Value):
            return False
        before, after = self.graph.metas[operand.number], self.graph.metas[self.at.number]
        alike = before.shape == after.shape and before.dtype == after.dtype
        self.at = operand if alike else self.at
        return alike

    def clamp(self) -> tuple[float | None, float | None]:
        """Step over a clamp, and return its bounds."""
        step = self.step("hardtanh", "clamp")
        if step is None or not self.over(step.arguments[0]):
            return None, None
        default = (-1.0, 1.0) if step.operation == "hardtanh" else (None, None)
        low, high = (step.arguments[i + 1] if i + 1 < len(step.arguments) else default[i] for i in (0, 1))
        return _bound(low, -math.inf), _bound(high, math.inf)

    def slope(self, channels: int) -> Tensor | None:
        """Step over a PReLU or ReLU, and return its slopes."""
        step = self.step("prelu", "relu")
        slopes = None
        if step is not None:
            zeros = torch.zeros(channels, dtype=torch.float64, device=CPU)
            slopes = zeros if step.operation == "relu" else constant(self.graph, step.arguments[1], channels)
        return slopes if step is not None and slopes is not None and self.over(step.arguments[0]) else None

    def affine(self, channels: int) -> tuple[Tensor, Tensor] | None:
        """Step over an affine map of channels, and return its scale and shift; two together would be rounded once."""
        step = self.step("affine")
        values = [] if step is None else [constant(self.graph, item, channels) for item in step.arguments[1:]]
        if step is None or len(values) != 2 or values[0] is None or values[1] is None:
            return None
        if not self.over(step.arguments[0]):
            return None
        return values[0], values[1]

    def activation(self, channels: int) -> Activation:
        """Step over what kernels do last: a clamp, and a PReLU before it."""
        low, high = self.clamp()
        relu = self.step("relu")
        if relu is not None and self.over(relu.arguments[0]):  # a bound: as a slope of 0 it makes NaN of -inf
            return Activation(channels, low=max(0.0, -math.inf if low is None else low), high=high)
        return Activation(channels, slope=self.slope(channels), low=low, high=high)

    def normalisation(self, channels: int) -> tuple[Tensor, Tensor] | None:
        """Step over `(x - mean) / std`, and return both."""
        division = self.step("div.Tensor")
        if division is None:
            return None
        std = constant(self.graph, division.arguments[1], channels, elementwise=True)
        inside = Chain(self.graph, self.top, self.at)
        if not inside.over(division.arguments[0]):
            return None
        difference = inside.step("sub.Tensor")
        mean = None if difference is None else constant(self.graph, difference.arguments[1], channels, elementwise=True)
        if std is None or mean is None or difference is None or not inside.over(difference.arguments[0]):
            return None
        self.at = inside.at
        return mean, std

    def halving(self) -> bool:
        """Step over averages over 2x2, that keep what is left of an odd side."""
        step = self.step("avg_pool2d")
        if step is None or not self.graph.is_map(step.arguments[0]):
            return False
        kernel, stride, padding, ceil_mode, _, divisor = pooling_arguments(step)
        sides = self.graph.metas[step.arguments[0].number].shape[2:]  # type: ignore[union-attr]
        even = all(side % 2 == 0 for side in sides)
        if (kernel, stride, padding, divisor) != ((2, 2), (2, 2), (0, 0), None) or not (ceil_mode or even):
            return False
        self.at = step.arguments[0]
        return True


def pooling_arguments(step: Step) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], bool, bool, object]:
    """Return kernel, stride, padding, whether windows may leave the map, whether padding counts, and the divisor."""
    given = [*step.arguments[1:], *[None] * 6]
    kernel = pair(given[0], 1)
    return kernel, pair(given[1], kernel), pair(given[2], 0), bool(given[3]), given[4] is not False, given[5]


def pair(argument: Argument, default: "int | tuple[int, int]") -> tuple[int, int]:
    """Return an argument of two whole numbers, of which one may stand for both."""
    if not argument and argument != 0:
        return default if isinstance(default, tuple) else (default, default)
    numbers = argument if isinstance(argument, list) else [argument]
    assert all(isinstance(number, int) for number in numbers)
    return numbers[0], numbers[-1]  # type: ignore[return-value]


def _bound(argument: Argument, free: float) -> float | None:
    """Return a bound; None where there is none, or the one that leaves everything free."""
    if argument is None:
        return None
    assert isinstance(argument, int | float)
    return None if argument == free else float(argument)
