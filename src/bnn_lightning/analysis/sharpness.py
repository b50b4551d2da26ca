"""Sharpness of a landscape, in numbers."""

from dataclasses import dataclass

import numpy as np

from bnn_lightning.analysis.landscape import Array, Landscape
from bnn_lightning.utils.checks import check_positive
from bnn_lightning.utils.optional import require

# Points of a circle, and of the refined grid for each step of the grid.
_ANGLES = 256
_REFINED = 10


@dataclass(frozen=True)
class Basin:
    """The region around a network in which the loss stays below a level.

    Attributes:
        size: A length for one direction, an area for two, in filter norms.
        is_cut: Whether it reaches the edge of the grid, so that it is larger.
    """

    size: float
    is_cut: bool


def loss_at_radius(landscape: Landscape, radius: float) -> tuple[float, float]:
    """Return the mean and the highest loss at a distance from the network, interpolated linearly between points.

    Args:
        landscape: Measured whole.
        radius: In filter norms, within the grid. For one direction it is two points, for two a circle.

    Raises:
        ValueError: It lies outside the grid.
    """
    if not 0 < radius <= landscape.steps[-1]:
        raise ValueError(f"`radius` must be positive and at most {landscape.steps[-1]:g}, got {radius:g}.")
    if landscape.losses.ndim == 1:
        losses = np.interp([-radius, radius], landscape.steps, landscape.losses)
    else:
        angles = np.linspace(0, 2 * np.pi, _ANGLES, endpoint=False)
        losses = interpolate(landscape, radius * np.cos(angles), radius * np.sin(angles))
    return float(losses.mean()), float(losses.max())


def basin(landscape: Landscape, above: float = 1.0) -> Basin:
    """Measure the connected region around the network in which the loss is less than `above` over the network's own.

    Args:
        landscape: Measured whole.
        above: Positive.

    Raises:
        ValueError: `above` is not positive.
    """
    check_positive("above", above)
    fine = np.linspace(landscape.steps[0], landscape.steps[-1], (len(landscape.steps) - 1) * _REFINED + 1)
    if landscape.losses.ndim == 1:
        losses = np.interp(fine, landscape.steps, landscape.losses)
    else:
        losses = interpolate(landscape, *np.meshgrid(fine, fine, indexing="ij"))
    low = losses < landscape.losses[landscape.center] + above
    regions, _ = require("scipy.ndimage", extra="visualize").label(low)
    inside = low & (regions == regions[(len(fine) // 2,) * low.ndim])
    # A point of the refined grid stands for the cell around it, of which at an edge a part lies outside.
    width = np.full(len(fine), fine[1] - fine[0])
    width[[0, -1]] /= 2
    cells = width if low.ndim == 1 else np.outer(width, width)
    edges = [inside[index] for axis in range(low.ndim) for index in _both_ends(axis, low.ndim)]
    return Basin(float(cells[inside].sum()), any(bool(edge.any()) for edge in edges))


def curvature(landscape: Landscape, step: float) -> tuple[float, float]:
    """Return the second difference of the true loss, `(L(h) + L(-h) - 2 L(0)) / h^2`, the mean over the directions.

    The loss of a binary network is a step function of its latent weights: what this says depends on h, which is given
    back beside it.

    Args:
        landscape: Measured whole.
        step: h; the nearest step of the grid is taken.

    Returns:
        The curvature, and the h that was taken.
    """
    middle = len(landscape.steps) // 2
    offset = max(1, int(np.abs(landscape.steps[middle:] - step).argmin()))
    taken = float(landscape.steps[middle + offset])
    lines = (
        [landscape.losses] if landscape.losses.ndim == 1 else [landscape.losses[:, middle], landscape.losses[middle]]
    )
    second = [line[middle + offset] + line[middle - offset] - 2 * line[middle] for line in lines]
    return float(np.mean(second)) / taken**2, taken


def interpolate(landscape: Landscape, first: Array, second: Array) -> Array:
    """Return losses between the points of a grid of two directions, bilinearly.

    Args:
        landscape: Landscape of two directions.
        first: Steps along the first one, any shape, within the grid.
        second: Steps along the second one, of the same shape.

    Raises:
        ModuleNotFoundError: SciPy is not installed.
    """
    steps = landscape.steps
    between = require("scipy.interpolate", extra="visualize").RegularGridInterpolator((steps, steps), landscape.losses)
    found: Array = between((first, second))
    return found


def _both_ends(axis: int, dimensions: int) -> list[tuple[slice | int, ...]]:
    return [tuple(end if index == axis else slice(None) for index in range(dimensions)) for end in (0, -1)]
