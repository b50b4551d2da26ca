"""Figure of sign statistics, layer by layer: weights, activations, latent weights."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bnn_lightning.figures.style import COLOR_MAP, COLORS, new_figure, round_ticks
from bnn_lightning.figures.tables import SignTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_signs(statistics: Sequence[SignTable], *, limit: float) -> "Figure":
    """Draw the statistics of signs over the layers of a network.

    Args:
        statistics: A table a layer, as `analysis.sign_statistics` returns them.
        limit: The histograms' range, in standard deviations on both sides of 0.

    Returns:
        The figure: shares of +1, entropies, dead channels, and the latent weights' distributions.
    """
    height = max(3.0, 0.16 * len(statistics) + 1.4)
    figure, axes = new_figure(1, 4, width=3.0, height=height)
    names = [one.layer for one in statistics]
    places = list(range(len(names)))
    shares: list[tuple[str, str, str]] = [("weights", "weight_share", "o"), ("inputs", "input_share", "s")]
    _points(axes[0], statistics, shares, 100.0, "share of +1 (%)")
    axes[0].axvline(50, color="#999999", linewidth=0.8)
    _limit(axes[0], statistics, ("weight_share", "input_share"), center=50.0, factor=100.0, least=5.0)
    entropies = [("weights", "weight_entropy", "o"), ("inputs", "input_entropy", "s")]
    _points(axes[1], statistics, entropies, 1.0, "entropy of signs (bits)")
    lowest = min(value for _, key, _ in entropies for one in statistics if (value := getattr(one, key)) is not None)
    axes[1].set_xlim(min(0.99, lowest) - 0.1 * (1 - min(0.99, lowest)), 1 + 0.1 * (1 - min(0.99, lowest)))
    dead = [("dead input channels", "dead_inputs", "s"), ("latent weights near 0", "near_zero", "o")]
    _points(axes[2], statistics, dead, 100.0, "share (%)")
    axes[2].set_xlim(left=-0.3)
    for ax in axes[:3]:
        ax.xaxis.set_major_locator(round_ticks(4))
    _histograms(figure, axes[3], statistics, limit)
    for index, ax in enumerate(axes):
        ax.set_yticks(places, names if index == 0 else [""] * len(names), fontsize=7)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.tick_params(axis="x", labelsize=8)
    return figure


def _points(
    ax: "Axes", statistics: Sequence[SignTable], series: Sequence[tuple[str, str, str]], factor: float, label: str
) -> None:
    for color, (name, key, marker) in zip(COLORS, series, strict=False):
        found = [(getattr(one, key), place) for place, one in enumerate(statistics)]
        kept = [(factor * value, place) for value, place in found if value is not None]
        ax.plot(
            [value for value, _ in kept],
            [place for _, place in kept],
            marker=marker,
            markersize=4,
            linewidth=0.8,
            color=color,
            label=name,
        )
    ax.set_xlabel(label, fontsize=9)
    ax.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, ncols=2, columnspacing=1.0)


def _limit(
    ax: "Axes", statistics: Sequence[SignTable], keys: Sequence[str], *, center: float, factor: float, least: float
) -> None:
    """Give an axis a range around a center: all values lie in it, and chance does not look like a trend."""
    values = [factor * value for key in keys for one in statistics if (value := getattr(one, key)) is not None]
    reach = max(least, 1.1 * max(abs(value - center) for value in values))
    ax.set_xlim(center - reach, center + reach)


def _histograms(figure: "Figure", ax: "Axes", statistics: Sequence[SignTable], limit: float) -> None:
    values = 100 * np.stack([np.asarray(one.histogram) for one in statistics])
    extent = (-limit, limit, len(statistics) - 0.5, -0.5)
    image = ax.imshow(values, aspect="auto", cmap=COLOR_MAP, extent=extent, interpolation="nearest")
    ax.grid(visible=False)
    ax.set_xlabel("latent weight (standard deviations)", fontsize=9)
    bar = figure.colorbar(image, ax=ax)
    bar.set_label(f"weights per bin of {2 * limit / values.shape[1]:.1g} (%)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
