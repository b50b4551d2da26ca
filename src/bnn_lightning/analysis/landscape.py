"""Table of a loss landscape: loss, accuracy and flipped signs at each point."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.analysis.loss_grid import Measured

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Landscape:
    """Measurements around one network.

    Attributes:
        name: Name of the network, as the figures call it.
        steps: Along each direction, (S,), from -radius to radius; 0 is the network itself.
        losses: (S,) for one direction, (S, S) for two, rows along the first; NaN where nothing was measured yet.
        accuracies: Shares of top-1, shaped alike.
        flipped: Shares of the binary weights with another sign than the network's, shaped alike; NaN without such.
    """

    name: str
    steps: Array
    losses: Array
    accuracies: Array
    flipped: Array

    @property
    def center(self) -> tuple[int, ...]:
        """The index of the network itself."""
        return (len(self.steps) // 2,) * self.losses.ndim

    @property
    def is_complete(self) -> bool:
        """Whether every point was measured; a loss may be infinite or NaN, an accuracy not."""
        return not bool(np.isnan(self.accuracies).any())


def grid(points: int, radius: float) -> Array:
    """Return steps from -radius to radius with 0 in the middle.

    Args:
        points: An odd number, 3 or more, so that the network itself is one of them.
        radius: In norms of the filters.

    Raises:
        ValueError: A value out of its range.

    Example:
        >>> grid(5, 1.0).tolist()
        [-1.0, -0.5, 0.0, 0.5, 1.0]
    """
    if points < 3 or points % 2 == 0:
        raise ValueError(f"`points` must be odd and 3 or more, so that the network itself is one, got {points}.")
    if not 0 < radius < float("inf"):
        raise ValueError(f"`radius` must be positive, got {radius}.")
    half = np.linspace(0.0, radius, points // 2 + 1)
    return np.concatenate([-half[:0:-1], half])


def grid_points(steps: Array, dimensions: int) -> list[tuple[float, ...]]:
    """Return the points of a grid, (S,) or (S, S) of them, row by row: a step for each direction."""
    return list(itertools.product(steps.tolist(), repeat=dimensions))


def landscape_of(name: str, steps: Array, dimensions: int, measured: Iterable[tuple[int, Measured]]) -> Landscape:
    """Lay measured points out on a grid.

    Args:
        name: Name of the network.
        steps: Steps of the grid.
        dimensions: 1 or 2.
        measured: Results of `grid_points`: index and what was found there.
    """
    table = np.full((3, len(steps) ** dimensions), np.nan)
    for index, found in measured:
        table[:, index] = found
    return Landscape(name, steps, *table.reshape(3, *[len(steps)] * dimensions))
