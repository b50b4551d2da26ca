"""Loss landscapes drawn: lines, contours, surfaces."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bnn_lightning.visualise.landscape import Array, Landscape
from bnn_lightning.visualise.style import COLOUR_MAP, COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def landscape_lines(landscapes: Sequence[Landscape]) -> "Figure":
    """Draw losses along one direction, and below them the shares of flipped signs; one scale for all networks.

    Args:
        landscapes: Of one direction each.

    Raises:
        ValueError: None, or one of two directions.
    """
    check_dimensions(landscapes, 1)
    figure, (top, bottom) = new_figure(2, 1, width=6.0, height=2.8)
    for index, one in enumerate(landscapes):
        colour = COLOURS[index % len(COLOURS)]
        top.plot(one.steps, one.losses, color=colour, label=one.name)
        bottom.plot(one.steps, 100 * one.flipped, color=colour)
    top.set_ylabel("loss")
    top.legend(frameon=False)
    bottom.set_ylabel("flipped signs [%]")
    bottom.set_xlabel("step [filter norms]")
    bottom.set_ylim(bottom=0.0)
    return figure


def landscape_contours(landscapes: Sequence[Landscape], *, cap: float | None = None, levels: int = 20) -> "Figure":
    """Draw losses over two directions as contours, networks side by side; levels and colours are those of all.

    Args:
        landscapes: Of two directions each.
        cap: Losses above it are drawn as this one; None draws them all.
        levels: How many.

    Raises:
        ValueError: None, or one of one direction.
    """
    check_dimensions(landscapes, 2)
    lowest, highest = loss_range(landscapes, cap)
    edges = np.linspace(lowest, highest, levels)
    figure, axes = new_figure(1, len(landscapes), width=4.4, height=3.8)
    for axis, one in zip(axes, landscapes, strict=True):
        shown = capped(one.losses, lowest, highest).T  # matplotlib's rows are the vertical axis
        filled = axis.contourf(one.steps, one.steps, shown, levels=edges, cmap=COLOUR_MAP)
        axis.contour(one.steps, one.steps, shown, levels=edges, colors="white", linewidths=0.4)
        axis.plot(0, 0, marker="+", color="white")
        axis.set(title=one.name, xlabel="direction 1", ylabel="direction 2", aspect="equal")
    figure.colorbar(filled, ax=axes, label="loss")
    return figure


def loss_range(landscapes: Sequence[Landscape], cap: float | None) -> tuple[float, float]:
    """Return the lowest and the highest loss that is drawn, over all networks; they differ."""
    finite = np.concatenate([one.losses[np.isfinite(one.losses)].ravel() for one in landscapes])
    if not finite.size:
        raise ValueError("There is no finite loss to draw.")
    lowest, highest = float(finite.min()), float(finite.max())
    if cap is not None:
        if cap <= lowest:
            raise ValueError(f"`cap` must lie above the lowest loss, {lowest:.4g}, got {cap:g}.")
        highest = min(highest, cap)
    return lowest, highest if highest > lowest else lowest + 1.0


def capped(losses: Array, lowest: float, highest: float) -> Array:
    """Return losses within what is drawn: what is above, and infinities, at its upper edge."""
    return np.clip(np.nan_to_num(losses, nan=np.nan, posinf=highest, neginf=lowest), lowest, highest)


def check_dimensions(landscapes: Sequence[Landscape], dimensions: int) -> None:
    """Refuse no landscapes, and those of another number of directions.

    Raises:
        ValueError: Says which.
    """
    if not landscapes:
        raise ValueError("`landscapes` is empty.")
    if others := [one.name for one in landscapes if one.losses.ndim != dimensions]:
        raise ValueError(f"`landscapes` must have {dimensions} direction(s); {', '.join(others)} has not.")
