"""Figures of loss landscapes: lines, contours, surfaces."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bnn_lightning.figures.style import COLOR_MAP, COLORS, new_figure, new_interactive, round_ticks
from bnn_lightning.figures.tables import Array, LossTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def landscape_lines(landscapes: Sequence[LossTable], *, cap: float | None = None) -> "Figure":
    """Draw losses along one direction, and below them the shares of flipped signs; one scale for all networks.

    Args:
        landscapes: Landscapes of one direction each.
        cap: The axis ends there; None shows them all.

    Raises:
        ValueError: None, or one of two directions.
    """
    _check_dimensions(landscapes, 1)
    _, highest = loss_range(landscapes, cap)
    figure, (top, bottom) = new_figure(2, 1, width=6.0, height=2.8)
    for index, one in enumerate(landscapes):
        color = COLORS[index % len(COLORS)]
        top.plot(one.steps, one.losses, color=color, label=one.name)
        bottom.plot(one.steps, 100 * one.flipped, color=color)
    top.set_ylabel("loss")
    top.set_ylim(top=highest if cap is not None else None)
    figure.legend(loc="outside upper left", ncols=3, fontsize=9, frameon=False)
    bottom.set_ylabel("flipped signs [%]")
    for axis in (top, bottom):
        axis.xaxis.set_major_locator(round_ticks(4))
    bottom.set_xlabel("step [filter norms]")
    bottom.set_ylim(bottom=0.0)
    return figure


def landscape_contours(landscapes: Sequence[LossTable], *, cap: float | None = None, levels: int = 20) -> "Figure":
    """Draw losses over two directions as contours, and below them the shares of flipped signs, networks side by side.

    Levels and colors are those of all networks.

    Args:
        landscapes: Landscapes of two directions each.
        cap: Losses above it are drawn as this one; None draws them all.
        levels: Number of levels, 2 or more.

    Raises:
        ValueError: None, or one of one direction; a `cap` or `levels` with which nothing can be drawn.
    """
    _check_dimensions(landscapes, 2)
    if levels < 2:
        raise ValueError(f"`levels` must be 2 or more, got {levels}.")
    lowest, highest = loss_range(landscapes, cap)
    columns = len(landscapes)
    # Squares: beside a color bar of its own, one network is less high than it is wide.
    figure, axes = new_figure(2, columns, width=4.2, height=3.1 if columns == 1 else 3.5, layout="compressed")
    flips = [one.flipped[np.isfinite(one.flipped)].max(initial=0.0) for one in landscapes]
    most = 100 * max(*flips, 0.01)
    for one, above, below in zip(landscapes, axes[:columns], axes[columns:], strict=True):
        losses = _contour(above, one, _capped(one.losses, lowest, highest), np.linspace(lowest, highest, levels))
        signs = _contour(below, one, 100 * one.flipped, np.linspace(0.0, most, levels))
        above.set_title(one.name, fontsize=10)
        for axis in (above, below):
            axis.xaxis.set_major_locator(round_ticks(4))
            axis.yaxis.set_major_locator(round_ticks(4))
        if np.isnan(one.flipped).all():
            below.text(0.5, 0.5, "no binary weights", transform=below.transAxes, ha="center", va="center")
        below.set_xlabel("direction 1 [filter norms]")
    for row in (axes[0], axes[columns]):
        row.set_ylabel("direction 2 [filter norms]")
    for values, part, label in ((losses, axes[:columns], "loss"), (signs, axes[columns:], "flipped signs [%]")):
        figure.colorbar(values, ax=part, label=label, ticks=round_ticks())
    return figure


def landscape_surfaces(landscapes: Sequence[LossTable], *, cap: float | None = None) -> "Figure":
    """Draw losses over two directions as surfaces, networks side by side; heights and colors are those of all.

    Args:
        landscapes: Landscapes of two directions each.
        cap: Losses above it are drawn as this one; None draws them all.

    Raises:
        ValueError: See `landscape_contours`.
    """
    _check_dimensions(landscapes, 2)
    lowest, highest = loss_range(landscapes, cap)
    figure, axes = new_figure(1, len(landscapes), width=4.8, height=4.2, projection="3d")
    for axis, one in zip(axes, landscapes, strict=True):
        first, second = np.meshgrid(one.steps, one.steps, indexing="ij")
        heights = _capped(one.losses, lowest, highest)
        three: Any = axis  # the stubs of matplotlib know flat axes only
        three.plot_surface(
            first, second, heights, cmap=COLOR_MAP, vmin=lowest, vmax=highest, rcount=101, ccount=101, linewidth=0
        )
        three.set_title(one.name, fontsize=10)
        three.set(xlabel="direction 1", ylabel="direction 2", zlabel="loss", zlim=(lowest, highest))
        ticks = [one.steps[0], 0.0, one.steps[-1]]  # more of them run into each other
        three.set(xticks=ticks, yticks=ticks)
    return figure


def interactive_landscapes(landscapes: Sequence[LossTable], *, cap: float | None = None) -> Any:
    """Draw losses over two directions as surfaces that can be turned, with plotly; scales as of `landscape_surfaces`.

    Under the pointer stand the loss as measured, the accuracy and the share of flipped signs.

    Args:
        landscapes: Landscapes of two directions each.
        cap: Losses above it are drawn as this one; None draws them all.

    Returns:
        A figure of plotly.

    Raises:
        ValueError: See `landscape_contours`.
    """
    _check_dimensions(landscapes, 2)
    lowest, highest = loss_range(landscapes, cap)
    figure = new_interactive(len(landscapes), kind="surface", titles=[one.name for one in landscapes])
    text = "steps %{x:.3g}, %{y:.3g}<br>loss %{customdata[0]:.4g}<br>top-1 %{customdata[1]:.1%}"
    for column, one in enumerate(landscapes, start=1):
        flipped = "" if np.isnan(one.flipped).all() else "<br>flipped %{customdata[2]:.1%}"
        figure.add_surface(
            x=one.steps,
            y=one.steps,
            z=_capped(one.losses, lowest, highest).T,  # rows are y
            customdata=np.stack([one.losses.T, one.accuracies.T, one.flipped.T], axis=-1),
            hovertemplate=f"{text}{flipped}<extra></extra>",
            coloraxis="coloraxis",
            row=1,
            col=column,
        )
    figure.update_layout(coloraxis={"colorscale": COLOR_MAP, "cmin": lowest, "cmax": highest})
    titles = {"xaxis_title": "direction 1", "yaxis_title": "direction 2", "zaxis_title": "loss"}
    figure.update_scenes(zaxis_range=[lowest, highest], aspectmode="cube", **titles)
    return figure


def loss_range(landscapes: Sequence[LossTable], cap: float | None) -> tuple[float, float]:
    """Return the lowest and the highest loss that is drawn, over all networks; they differ.

    Args:
        landscapes: One or more.
        cap: The highest is at most this; None sets no bound.

    Raises:
        ValueError: No loss is finite, or `cap` lies below all of them.
    """
    finite = np.concatenate([one.losses[np.isfinite(one.losses)].ravel() for one in landscapes])
    if not finite.size:
        raise ValueError("There is no finite loss to draw.")
    lowest, highest = float(finite.min()), float(finite.max())
    if cap is not None:
        if not cap > lowest:
            raise ValueError(f"`cap` must lie above the lowest loss, {lowest:.4g}, got {cap:g}.")
        highest = min(highest, cap)
    return lowest, highest if highest > lowest else lowest + 1.0


def _contour(axis: "Axes", one: LossTable, values: Array, levels: Array) -> Any:
    # The first direction is the horizontal axis: matplotlib's rows are the vertical one.
    filled = axis.contourf(one.steps, one.steps, values.T, levels=levels, cmap=COLOR_MAP)
    if not np.isnan(values).all():
        axis.contour(one.steps, one.steps, values.T, levels=levels, colors="white", linewidths=0.4)
    axis.plot(0, 0, marker="+", color="white")
    axis.set_aspect("equal")
    axis.grid(visible=False)
    return filled


def _capped(losses: Array, lowest: float, highest: float) -> Array:
    """Return losses within what is drawn; infinite ones at its upper edge, NaN as it is: a hole."""
    return np.clip(losses, lowest, highest)


def _check_dimensions(landscapes: Sequence[LossTable], dimensions: int) -> None:
    if not landscapes:
        raise ValueError("`landscapes` is empty.")
    if others := [one.name for one in landscapes if one.losses.ndim != dimensions]:
        wanted = "one direction" if dimensions == 1 else "two directions"
        raise ValueError(f"`landscapes` must be of {wanted}; {', '.join(others)} is not.")
