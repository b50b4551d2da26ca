"""Figure of training curves: one or several groups of runs, each as its mean and spread over seeds."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bnn_lightning.figures.style import COLORS, EXTRA, log_axis, new_figure, round_ticks
from bnn_lightning.utils.curve_panels import PANELS, CurvePanel, is_wide
from bnn_lightning.utils.curves import Curves
from bnn_lightning.utils.optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Band:
    """A metric over the runs of a group, in the epochs where at least one has logged it.

    Attributes:
        epochs: Counted from 1.
        mean: Over the runs that have a value there.
        deviation: Their sample standard deviation; 0 for a single run.
        runs: Number of runs.
    """

    epochs: list[int]
    mean: list[float]
    deviation: list[float]
    runs: list[int]


def summarize(runs: Sequence[Curves], name: str) -> Band:
    """Return mean and standard deviation of a metric over runs, epoch by epoch.

    Args:
        runs: Tables as `utils.curves.read_curves` reads them; they need not be equally long.
        name: A column.

    Example:
        >>> summarize([{"epoch": [0.0, 1.0], "lr": [1.0, 2.0]}, {"epoch": [0.0], "lr": [3.0]}], "lr")
        Band(epochs=[1, 2], mean=[2.0, 2.0], deviation=[1.4142135623730951, 0.0], runs=[2, 1])
    """
    values: dict[int, list[float]] = {}
    for run in runs:
        for epoch, value in zip(run["epoch"], run.get(name, []), strict=False):
            if not math.isnan(value):
                values.setdefault(int(epoch) + 1, []).append(value)
    found = sorted(values.items())
    return Band(
        [epoch for epoch, _ in found],
        [statistics.fmean(seen) for _, seen in found],
        [statistics.stdev(seen) if len(seen) > 1 else 0.0 for _, seen in found],
        [len(seen) for _, seen in found],
    )


def training_table(groups: Mapping[str, Sequence[Curves]]) -> tuple[list[str], list[list[Any]]]:
    """Return the numbers of the figure: a row a group, metric and epoch.

    Args:
        groups: As for `training_curves`.

    Returns:
        Names of the columns, and the rows.
    """
    rows: list[list[Any]] = []
    for group, runs in groups.items():
        for name in dict.fromkeys(name for panel in PANELS for name in panel.series(_names(runs))):
            band = summarize(runs, name)
            columns = zip(band.epochs, band.mean, band.deviation, band.runs, strict=True)
            rows += [[group, name, *row] for row in columns]
    return ["group", "metric", "epoch", "mean", "deviation", "runs"], rows


def plot_training_curves(groups: Mapping[str, Sequence[Curves]], *, columns: int = 3) -> "Figure":
    """Draw training curves: a panel for each metric, a color for each group, a line style for each series.

    The panels are loss, top-1, top-5, terms of the loss, learning rate, annealing (temperature of the weights,
    sharpness of EDE, power of ReSTE), share of flipped signs, and gradient shares; one that no run has logged is left
    out. Lines are means over the runs of a group; around several lies a band of one sample standard deviation.

    Args:
        groups: Runs by the name of their group, such as those that differ by their seed alone: tables as
            `utils.curves.read_curves` reads them.
        columns: Panels in a row.

    Raises:
        ValueError: No run, or none with a metric that has a panel.

    Example:
        >>> run = {"epoch": [0.0, 1.0], "train/loss": [2.0, 1.0], "train/acc": [0.5, 0.75], "val/acc": [0.5, 0.5]}
        >>> [axes.get_title(loc="left") for axes in plot_training_curves({"mlp": [run]}).axes]
        ['Loss', 'Top-1 accuracy, %']
    """
    logged = _names(run for runs in groups.values() for run in runs)
    panels = [(panel, panel.series(logged)) for panel in PANELS]
    panels = [(panel, series) for panel, series in panels if series]
    if not panels:
        raise ValueError(f"`groups` holds no curve to draw: {', '.join(groups) or 'nothing'}. Was anything logged?")
    columns = min(columns, len(panels))
    figure, places = new_figure(-(-len(panels) // columns), columns, width=4.2, height=3.1)
    for axes, (panel, series) in zip(places, panels, strict=False):
        _draw(axes, panel, series, groups)
    for axes in places[len(panels) :]:
        axes.remove()
    if len(groups) > 1 or any(len(runs) > 1 for runs in groups.values()):
        _name_groups(figure, groups)
    return figure


def _names(runs: Iterable[Curves]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run))


def _draw(axes: "Axes", panel: CurvePanel, series: Sequence[str], groups: Mapping[str, Sequence[Curves]]) -> None:
    columns = [run.get(name, []) for runs in groups.values() for run in runs for name in series]
    values = [value for column in columns for value in column if not math.isnan(value)]
    for color, (group, runs) in zip(_cycle(len(groups)), groups.items(), strict=True):
        for own, style, name in zip(_cycle(len(series)), _styles(len(series)), series, strict=True):
            # Alone, series have the colors; beside others a group has one.
            look = {"color": own if len(groups) == 1 else color, "ls": style, "label": f"{group}: {panel.label(name)}"}
            _draw_band(axes, summarize(runs, name), 100.0 if panel.percent else 1.0, look)
    axes.set_xlabel("epoch", fontsize=9)
    axes.xaxis.set_major_locator(round_ticks(whole=True))
    if panel.log and is_wide(values):
        log_axis(axes, "y")
    elif 0 <= min(values) < 0.35 * max(values):
        axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=8)
    named = len(series) > 1 or len(panel.names) != 1  # which split a single line is of must be said
    axes.set_title(f"{panel.title}{', %' if panel.percent else ''}", fontsize=10, loc="left", pad=18 if named else 6)
    if named:
        _name_series(axes, panel, series, alone=len(groups) == 1)


def _draw_band(axes: "Axes", band: Band, factor: float, look: Mapping[str, str]) -> None:
    mean, spread = ([factor * value for value in values] for values in (band.mean, band.deviation))
    axes.plot(band.epochs, mean, lw=1.4, marker="o" if len(mean) == 1 else None, **look)  # type: ignore[arg-type]
    if max(band.runs, default=0) > 1:
        low, high = ([m + sign * s for m, s in zip(mean, spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(band.epochs, low, high, color=look["color"], alpha=0.18, lw=0)


def _name_series(axes: "Axes", panel: CurvePanel, series: Sequence[str], *, alone: bool) -> None:
    line = require("matplotlib.lines", extra=EXTRA).Line2D
    looks = zip(_cycle(len(series)), _styles(len(series)), strict=True)
    handles = [line([], [], color=color if alone else "0.3", ls=style, lw=1.4) for color, style in looks]
    names = [panel.label(name) for name in series]
    # Between title and axes, where no line runs through it.
    axes.legend(
        handles,
        names,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=len(names),
        fontsize=8,
        frameon=False,
        borderaxespad=0.1,
        borderpad=0.0,
        columnspacing=1.2,
    )


def _name_groups(figure: "Figure", groups: Mapping[str, Sequence[Curves]]) -> None:
    line = require("matplotlib.lines", extra=EXTRA).Line2D
    handles = [line([], [], color=color, lw=3) for color in _cycle(len(groups))]
    labels = [
        f"{group}, mean ± std. dev. of {len(runs)} runs" if len(runs) > 1 else group for group, runs in groups.items()
    ]
    figure.legend(handles, labels, loc="outside upper left", ncols=3, fontsize=9, frameon=False)


def _cycle(number: int) -> list[str]:
    return [COLORS[index % len(COLORS)] for index in range(number)]


def _styles(number: int) -> list[str]:
    return [_STYLES[index % len(_STYLES)] for index in range(number)]
