"""Read a program backwards from a value: what stands before it, step by step, as far as one kernel computes it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bnn_lightning.deploy.graph import Graph
from bnn_lightning.deploy.maps import Activation
from bnn_lightning.deploy.program import Argument, Step, Stored, Value


def constant(graph: Graph, argument: Argument, channels: int) -> Tensor | None:
    """Return values of channels, (channels,) in float64, that a file holds; None: it is something else."""
    step = graph.step_of(argument)
    if step is not None and step.operation == "reshape":
        argument = step.arguments[0]
    if not isinstance(argument, Stored):
        return None
    stored = graph.network.stored(argument)
    if not stored.is_floating_point() or stored.numel() not in (1, channels):
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

    def clamp(self) -> tuple[float | None, float | None]:
        """Step over a clamp, and return its bounds."""
        step = self.step("hardtanh", "clamp")
        if step is None:
            return None, None
        default = (-1.0, 1.0) if step.operation == "hardtanh" else (None, None)
        low, high = (step.arguments[i + 1] if i + 1 < len(step.arguments) else default[i] for i in (0, 1))
        self.at = step.arguments[0]
        return _number(low), _number(high)

    def slope(self, channels: int) -> Tensor | None:
        """Step over a PReLU or ReLU, and return its slopes."""
        step = self.step("prelu", "relu")
        slopes = None
        if step is not None:
            zeros = torch.zeros(channels, dtype=torch.float64)
            slopes = zeros if step.operation == "relu" else constant(self.graph, step.arguments[1], channels)
        if step is not None and slopes is not None:
            self.at = step.arguments[0]
        return slopes

    def affine(self, channels: int) -> tuple[Tensor, Tensor] | None:
        """Step over an affine map of channels, and return its scale and shift; two together would be rounded once."""
        step = self.step("affine")
        values = [] if step is None else [constant(self.graph, item, channels) for item in step.arguments[1:]]
        if step is None or len(values) != 2 or values[0] is None or values[1] is None:
            return None
        self.at = step.arguments[0]
        return values[0], values[1]

    def activation(self, channels: int) -> Activation:
        """Step over what kernels do last: a clamp, and a PReLU before it."""
        low, high = self.clamp()
        return Activation(channels, slope=self.slope(channels), low=low, high=high)

    def normalisation(self, channels: int) -> tuple[Tensor, Tensor] | None:
        """Step over `(x - mean) / std`, and return both."""
        division = self.step("div.Tensor")
        if division is None:
            return None
        std = constant(self.graph, division.arguments[1], channels)
        inside = Chain(self.graph, self.top, division.arguments[0])
        difference = inside.step("sub.Tensor")
        mean = None if difference is None else constant(self.graph, difference.arguments[1], channels)
        if std is None or mean is None or difference is None:
            return None
        self.at = difference.arguments[0]
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


def _number(argument: Argument) -> float | None:
    if argument is None:
        return None
    assert isinstance(argument, int | float)
    return float(argument) if math.isfinite(argument) else None
