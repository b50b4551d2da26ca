"""Style of our figures: colors, sizes and frames, in one place."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from bnn_lightning.utils.optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXTRA = "visualize"
# Okabe and Ito's eight colors, which color-blind people tell apart; yellow is too light for lines.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
COLOR_MAP = "viridis"
Layout = Literal["constrained", "compressed"]


def new_figure(
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = 4.8,
    height: float = 3.6,
    projection: str | None = None,
    layout: Layout = "constrained",
) -> "tuple[Figure, list[Axes]]":
    """Make an empty figure of matplotlib, with no window and no global state behind it.

    Args:
        rows: Rows of axes.
        columns: Columns of axes.
        width: Width of one of them, in inches.
        height: Height of one of them, in inches.
        projection: Projection of matplotlib, such as "3d".
        layout: "compressed" keeps axes of a fixed aspect, such as images, close together.

    Returns:
        The figure and its axes, row by row.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.

    Example:
        >>> figure, (left, right) = new_figure(1, 2)
        >>> _ = left.plot([0, 1], [1, 0], color=COLORS[0])
    """
    # Imported late, as only this package needs it. `pyplot` would open windows and keep every figure alive.
    figure: Figure = require("matplotlib.figure", extra=EXTRA).Figure(
        figsize=(width * columns, height * rows), layout=layout
    )
    axes = list(figure.subplots(rows, columns, squeeze=False, subplot_kw={"projection": projection}).flat)
    for one in axes if projection is None else ():
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def log_axis(axes: "Axes", which: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, with plain numbers at its ticks: 0.1, 1, 10; and 2 and 5 where it spans few decades.

    Args:
        axes: Axes of a figure whose data is drawn already.
        which: "x" or "y".
    """
    ticker = require("matplotlib.ticker", extra=EXTRA)
    if which == "x":
        axes.set_xscale("log", nonpositive="mask")
    else:
        axes.set_yscale("log", nonpositive="mask")
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axes.get_xlim() if which == "x" else axes.get_ylim())
    few = low > 0 and high / low < 50
    axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=7))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def round_ticks(most: int = 6, *, whole: bool = False) -> Any:
    """Return a locator of at most so many round ticks; `whole` are whole numbers, such as epochs."""
    ticker = require("matplotlib.ticker", extra=EXTRA)
    return ticker.MaxNLocator(nbins=most, integer=whole, steps=[1, 2, 5, 10])


def new_interactive(columns: int = 1, *, kind: str = "xy", titles: Sequence[str] = ()) -> Any:
    """Make an empty figure of plotly, whose parts stand side by side.

    Args:
        columns: Number of columns.
        kind: Kind of what is drawn in each, in plotly's words: "xy", "surface" ...
        titles: One a column.

    Raises:
        ModuleNotFoundError: plotly is not installed.
    """
    subplots = require("plotly.subplots", extra=EXTRA)
    figure = subplots.make_subplots(1, columns, specs=[[{"type": kind}] * columns], subplot_titles=titles or None)
    figure.update_layout(template="plotly_white", colorway=COLORS, margin={"l": 10, "r": 10, "t": 50, "b": 10})
    return figure
