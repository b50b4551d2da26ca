"""Style of our figures: colors, sizes and frames, in one place."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bnn_lightning.utils.optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXTRA = "visualize"
# Okabe and Ito's eight colors, which color-blind people tell apart; yellow is too light for lines.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
COLOR_MAP = "viridis"


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = 4.8, height: float = 3.6, projection: str | None = None
) -> "tuple[Figure, list[Axes]]":
    """Make an empty figure of matplotlib, with no window and no global state behind it.

    Args:
        rows: Of axes.
        columns: Of axes.
        width: Of one of them, in inches.
        height: Of one of them, in inches.
        projection: Of matplotlib, such as "3d".

    Returns:
        The figure and its axes, row by row.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.

    Example:
        >>> figure, (left, right) = new_figure(1, 2)
        >>> _ = left.plot([0, 1], [1, 0], color=COLORS[0])
    """
    # Imported late, as only this room needs it. `pyplot` would open windows and keep every figure alive.
    figure: Figure = require("matplotlib.figure", extra=EXTRA).Figure(
        figsize=(width * columns, height * rows), layout="constrained"
    )
    axes = list(figure.subplots(rows, columns, squeeze=False, subplot_kw={"projection": projection}).flat)
    for one in axes if projection is None else ():
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def new_interactive(columns: int = 1, *, kind: str = "xy", titles: Sequence[str] = ()) -> Any:
    """Make an empty figure of plotly, whose parts stand side by side.

    Args:
        columns: How many.
        kind: Of what is drawn in each, in plotly's words: "xy", "surface" ...
        titles: One a column.

    Raises:
        ModuleNotFoundError: plotly is not installed.
    """
    subplots = require("plotly.subplots", extra=EXTRA)
    figure = subplots.make_subplots(1, columns, specs=[[{"type": kind}] * columns], subplot_titles=titles or None)
    figure.update_layout(template="plotly_white", colorway=COLORS, margin={"l": 10, "r": 10, "t": 50, "b": 10})
    return figure
