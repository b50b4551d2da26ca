"""Figure of a 2-D embedding (t-SNE, UMAP): penultimate features, colored by class."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from bnn_lightning.figures.style import EXTRA, new_figure
from bnn_lightning.utils.optional import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_embedding(
    points: ArrayLike, labels: ArrayLike, *, class_names: Sequence[str] = (), title: str = ""
) -> "Figure":
    """Draw embedded features, colored by class.

    Args:
        points: (N, 2).
        labels: (N,).
        class_names: One a class; none takes numbers.
        title: Above it.

    Raises:
        ValueError: A label without a name.
    """
    points, labels = np.asarray(points), np.asarray(labels)
    classes = sorted(set(labels.tolist()))
    if class_names and classes[-1] >= len(class_names):
        raise ValueError(f"`class_names` must have a name for label {classes[-1]}, got {len(class_names)}.")
    figure, (ax,) = new_figure(width=6.0, height=4.8)
    maps = require("matplotlib", extra=EXTRA).colormaps
    for place, label in enumerate(classes):
        of = labels == label
        color = maps["tab10"](place) if len(classes) <= 10 else maps["turbo"](place / (len(classes) - 1))
        name = class_names[label] if class_names else str(label)
        x, y = points[of].T
        ax.scatter(x, y, s=7, color=color, linewidths=0, alpha=0.8, label=name)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=10)
    if len(classes) <= 40:
        figure.legend(
            loc="outside right center", fontsize=8, frameon=False, markerscale=2, ncols=1 + len(classes) // 21
        )
    return figure
