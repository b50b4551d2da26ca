"""Figure of the values and surrogate gradients of binarizers, also in the course of training."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bnn_lightning.figures.style import COLOR_MAP, COLORS, EXTRA, new_figure
from bnn_lightning.figures.tables import SurrogateTable
from bnn_lightning.utils.optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_surrogates(found: Sequence[SurrogateTable]) -> "Figure":
    """Draw value and gradient of binarizers, a pair of axes each; colors are the progress of training.

    Args:
        found: Curves, as `analysis.surrogates_of` returns them.
    """
    names = list(dict.fromkeys(one.binarizer for one in found))
    rows = -(-len(names) // 2)
    figure, axes = new_figure(rows, 4, width=2.5, height=1.55)
    colors = require("matplotlib", extra=EXTRA).colormaps[COLOR_MAP]
    for index, name in enumerate(names):
        pair = axes[2 * index : 2 * index + 2]
        for one in (one for one in found if one.binarizer == name):
            color = COLORS[0] if one.progress is None else colors(0.9 * one.progress)
            for ax, y in zip(pair, (one.value, one.gradient), strict=True):
                ax.plot(np.asarray(one.x), np.asarray(y), color=color, linewidth=1.3)
        low, high = pair[1].get_ylim()
        pair[1].set_ylim(min(low, -0.08), max(high, 1.15))
        _label(pair, next(one for one in found if one.binarizer == name))
    for ax in axes[2 * len(names) :]:
        ax.axis("off")
    _legend(figure, found)
    return figure


def _label(pair: "Sequence[Axes]", one: SurrogateTable) -> None:
    variable = "latent weight" if one.of == "weights" else "input"
    for ax, what in zip(pair, ("value", "gradient"), strict=True):
        ax.set_title(f"{one.binarizer}: {what}", fontsize=8)
        ax.set_xlabel(variable, fontsize=7)
        ax.tick_params(labelsize=7)


def _legend(figure: "Figure", found: Sequence[SurrogateTable]) -> None:
    progresses = sorted({one.progress for one in found if one.progress is not None})
    if not progresses:
        return
    colors = require("matplotlib", extra=EXTRA).colormaps[COLOR_MAP]
    line = require("matplotlib.lines", extra=EXTRA).Line2D
    handles = [line([], [], color=colors(0.9 * p), label=f"progress {p:g}") for p in progresses]
    handles.append(line([], [], color=COLORS[0], label="always"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
