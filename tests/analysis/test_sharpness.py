"""Sharpness of landscapes that are known in closed form."""

import math

import numpy as np
import pytest

from bnn_lightning.analysis import Landscape, basin, curvature, grid, loss_at_radius


def landscape(function: object, *, points: int = 41, radius: float = 1.0, dimensions: int = 2) -> Landscape:
    steps = grid(points, radius)
    axes = np.meshgrid(*[steps] * dimensions, indexing="ij")
    losses = function(*axes)  # type: ignore[operator]
    return Landscape("known", steps, losses, np.zeros_like(losses), np.zeros_like(losses))


def test_bowl() -> None:
    """3 + 2 x^2 + 6 y^2: on a circle of radius r the mean is 3 + 4 r^2 and the highest 3 + 6 r^2; curvatures 4, 12."""
    one = landscape(lambda x, y: 3 + 2 * x**2 + 6 * y**2)
    mean, highest = loss_at_radius(one, 0.5)
    assert (mean, highest) == (pytest.approx(3 + 4 * 0.25, rel=2e-3), pytest.approx(3 + 6 * 0.25, rel=2e-3))
    found = basin(one, above=1.0)
    assert found.size == pytest.approx(math.pi / math.sqrt(2 * 6), rel=0.01)  # an ellipse
    assert not found.is_cut
    second, step = curvature(one, 0.1)
    assert (second, step) == (pytest.approx(8.0), pytest.approx(0.1))
    assert curvature(one, 1e-9)[1] == pytest.approx(0.05)


def test_line() -> None:
    one = landscape(lambda x: 1 + 4 * x**2, dimensions=1)
    assert loss_at_radius(one, 0.5) == (pytest.approx(2.0), pytest.approx(2.0))
    assert basin(one, above=1.0).size == pytest.approx(1.0, rel=0.01)
    assert curvature(one, 0.25)[0] == pytest.approx(8.0)
    lopsided = landscape(lambda x: 1 + 2 * np.maximum(x, 0), dimensions=1)
    assert loss_at_radius(lopsided, 1.0) == (2.0, 3.0)


def test_basin_is_connected_and_ends_at_the_edge() -> None:
    ring = landscape(lambda x, y: 10 * np.minimum((x**2 + y**2) / 0.04, np.abs(np.hypot(x, y) - 0.8)), points=101)
    assert basin(ring, above=1.0).size == pytest.approx(
        math.pi * 0.04 * 0.1, rel=0.05
    )  # the ring outside does not count
    flat = basin(landscape(lambda x, y: 0 * x), above=0.5)
    assert (flat.size, flat.is_cut) == (pytest.approx(4.0), True)


def test_symmetric_bowls_look_alike() -> None:
    one, other = landscape(lambda x, y: x**2 + 5 * y**2), landscape(lambda x, y: 5 * x**2 + y**2)
    # Rounding decides about points on the edge; one of the refined grid is 2.5e-5.
    assert basin(one).size == pytest.approx(basin(other).size, abs=10 * 2.5e-5)
    assert curvature(one, 0.2) == curvature(other, 0.2)
    assert loss_at_radius(one, 0.7) == pytest.approx(loss_at_radius(other, 0.7))


def test_grid_and_refusals() -> None:
    for points, radius in ((51, 1.0), (3, 0.7), (7, 0.3)):
        steps = grid(points, radius)
        assert (steps[0], steps[points // 2], steps[-1], len(steps)) == (-radius, 0.0, radius, points)
        assert (steps == -steps[::-1]).all()
    for points, radius, message in ((4, 1.0, "`points` must be odd"), (1, 1.0, "3 or more"), (5, 0.0, "`radius`")):
        with pytest.raises(ValueError, match=message):
            grid(points, radius)
    one = landscape(lambda x, y: x + y)
    with pytest.raises(ValueError, match=r"at most 1, got 1\.5"):
        loss_at_radius(one, 1.5)
    with pytest.raises(ValueError, match="`above` must be positive"):
        basin(one, above=0.0)
