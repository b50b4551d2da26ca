"""Figures show the numbers that they were given, on one scale."""

import numpy as np
import pytest

from bnn_lightning.analysis import Landscape, grid
from bnn_lightning.figures import interactive_landscapes, landscape_contours, landscape_lines, landscape_surfaces

STEPS = grid(5, 1.0)


def plane(name: str, height: float, *, flipped: float = 0.25) -> Landscape:
    first, second = np.meshgrid(STEPS, STEPS, indexing="ij")
    losses = height + first + 0.1 * second  # rows along the first direction
    return Landscape(name, STEPS, losses, losses * 0 + 0.5, np.full_like(losses, flipped))


def line(name: str, height: float) -> Landscape:
    return Landscape(name, STEPS, height + STEPS**2, STEPS * 0 + 0.5, np.abs(STEPS) / 4)


def test_lines() -> None:
    figure = landscape_lines([line("a", 1.0), line("b", 2.0)])
    top, bottom = figure.axes
    assert [one.get_label() for one in top.lines] == ["a", "b"]
    np.testing.assert_array_equal(top.lines[1].get_xydata(), np.stack([STEPS, 2 + STEPS**2], axis=1))
    np.testing.assert_array_equal(bottom.lines[0].get_ydata(), 25 * np.abs(STEPS))
    assert landscape_lines([line("a", 1.0)], cap=1.5).axes[0].get_ylim()[1] == 1.5


def test_contours_have_the_levels_of_all_networks() -> None:
    figure = landscape_contours([plane("a", 2.0), plane("b", 4.0)], levels=5)
    filled = [next(c for c in axis.collections if c.filled) for axis in figure.axes[:2]]
    for one in filled:
        np.testing.assert_allclose(one.levels, np.linspace(0.9, 5.1, 5))
    assert [axis.get_title() for axis in figure.axes[:2]] == ["a", "b"]


def test_first_direction_is_horizontal() -> None:
    figure = landscape_contours([plane("a", 2.0)], levels=3)
    (filled,) = [c for c in figure.axes[0].collections if c.filled]
    # The loss grows along the first direction: what is low lies to the left.
    low = np.concatenate([path.vertices for path in filled.get_paths()[:1]])
    assert low[:, 0].mean() < -0.3
    page = interactive_landscapes([plane("a", 2.0)])
    np.testing.assert_allclose(np.asarray(page.data[0].z)[0], 2.0 + STEPS - 0.1)  # a row has one second step


def test_surfaces_share_a_scale_and_are_capped() -> None:
    figure = landscape_surfaces([plane("a", 2.0), plane("b", 4.0)], cap=4.5)
    assert [axis.get_zlim() for axis in figure.axes] == [(0.9, 4.5)] * 2
    page = interactive_landscapes([plane("a", 2.0), plane("b", 4.0)], cap=4.5)
    assert (page.layout.coloraxis.cmin, page.layout.coloraxis.cmax) == (0.9, 4.5)
    assert np.max(page.data[1].z) == 4.5
    assert np.max(np.asarray(page.data[1].customdata)[..., 0]) == pytest.approx(5.1)  # under the pointer, as measured
    assert "flipped" in page.data[0].hovertemplate
    assert "flipped" not in interactive_landscapes([plane("a", 2.0, flipped=np.nan)]).data[0].hovertemplate


def test_infinite_losses_and_float_networks_are_drawn() -> None:
    one = plane("a", 2.0, flipped=np.nan)
    one.losses[0, 0], one.losses[1, 1] = np.inf, np.nan
    for draw in (landscape_contours, landscape_surfaces):
        draw([one]).canvas.draw()
    interactive_landscapes([one])


def test_refusals() -> None:
    with pytest.raises(ValueError, match="`landscapes` is empty"):
        landscape_lines([])
    with pytest.raises(ValueError, match="must be of two directions; b is not"):
        landscape_contours([plane("a", 1.0), line("b", 1.0)])
    with pytest.raises(ValueError, match=r"`cap` must lie above the lowest loss, 0\.9, got 0\.5"):
        landscape_surfaces([plane("a", 2.0)], cap=0.5)
    with pytest.raises(ValueError, match="`levels` must be 2 or more"):
        landscape_contours([plane("a", 2.0)], levels=1)
