"""Value and surrogate gradient of every binarizer, also in the course of training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bnn_lightning.binarizers.base import AnnealedBinarizer, Binarizer, WeightBinarizer
from bnn_lightning.binarizers.factory import binarizer_factory, list_binarizers
from bnn_lightning.figures.style import COLOR_MAP, COLORS, EXTRA, new_figure
from bnn_lightning.utils.optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROGRESSES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Surrogate:
    """A binarizer's value and gradient over its input.

    Attributes:
        binarizer: Its name.
        of: "inputs" or "weights"; of weights the input is the latent weight.
        progress: Of training, or None where the binarizer does not follow it.
        x: Inputs, (N,).
        value: What comes out, (N,).
        gradient: Of the value by the input, as training takes it, (N,).
    """

    binarizer: str
    of: str
    progress: float | None
    x: Tensor
    value: Tensor
    gradient: Tensor


def surrogates_of(
    names: Sequence[str] | None = None,
    *,
    progresses: Sequence[float] = PROGRESSES,
    points: int = 401,
    limit: float = 2.0,
) -> list[Surrogate]:
    """Compute value and gradient of binarizers with their default options.

    Args:
        names: Of `list_binarizers()`; None takes all.
        progresses: For those that follow training.
        points: Inputs, an odd number for one of them to be 0.
        limit: Inputs lie between -limit and limit.

    Returns:
        One entry a binarizer and progress.

    Raises:
        ValueError: An unknown name, fewer than 2 points, a limit that is not positive, or no progress.

    Example:
        >>> (found,) = surrogates_of(["ApproxSign"], points=5)
        >>> found.value.tolist(), found.gradient.tolist()
        ([-1.0, -1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 2.0, 0.0, 0.0])
    """
    if points < 2:
        raise ValueError(f"`points` must be at least 2, got {points}.")
    if not limit > 0:
        raise ValueError(f"`limit` must be positive, got {limit}.")
    if not progresses:
        raise ValueError("`progress` must be a list of at least one share of training, such as [0.0,1.0], got [].")
    found = []
    for name in list_binarizers() if names is None else names:
        binarizer = binarizer_factory(name)(1).eval()
        steps: Sequence[float | None] = progresses if isinstance(binarizer, AnnealedBinarizer) else (None,)
        for progress in steps:
            if progress is not None and isinstance(binarizer, AnnealedBinarizer):
                binarizer.set_progress(progress)
            x = torch.linspace(-limit, limit, points)
            found.append(_surrogate(name, binarizer, progress, x))
    return found


def _surrogate(name: str, binarizer: Binarizer, progress: float | None, x: Tensor) -> Surrogate:
    leaf = x.clone().requires_grad_()
    of_weights = isinstance(binarizer, WeightBinarizer)
    with torch.enable_grad():
        value = binarizer.sign(leaf) if isinstance(binarizer, WeightBinarizer) else binarizer(leaf.view(-1, 1)).view(-1)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return Surrogate(name, "weights" if of_weights else "inputs", progress, x, value.detach(), gradient)


def surrogate_rows(found: Sequence[Surrogate]) -> tuple[list[str], list[list[str | float | None]]]:
    """Return a table, header and rows, of what a picture of surrogates shows."""
    header = ["binarizer", "of", "progress", "x", "value", "gradient"]
    rows: list[list[str | float | None]] = [
        [one.binarizer, one.of, one.progress, *values]
        for one in found
        for values in zip(one.x.tolist(), one.value.tolist(), one.gradient.tolist(), strict=True)
    ]
    return header, rows


def plot_surrogates(found: Sequence[Surrogate]) -> "Figure":
    """Draw value and gradient of binarizers, a pair of axes each; colors are the progress of training.

    Args:
        found: From `surrogates_of`.

    Returns:
        The figure.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
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
                ax.plot(one.x, y, color=color, linewidth=1.3)
        low, high = pair[1].get_ylim()
        pair[1].set_ylim(min(low, -0.08), max(high, 1.15))
        _label(pair, next(one for one in found if one.binarizer == name))
    for ax in axes[2 * len(names) :]:
        ax.axis("off")
    _legend(figure, found)
    return figure


def _label(pair: "Sequence[Axes]", one: Surrogate) -> None:
    variable = "latent weight" if one.of == "weights" else "input"
    for ax, what in zip(pair, ("value", "gradient"), strict=True):
        ax.set_title(f"{one.binarizer}: {what}", fontsize=8)
        ax.set_xlabel(variable, fontsize=7)
        ax.tick_params(labelsize=7)


def _legend(figure: "Figure", found: Sequence[Surrogate]) -> None:
    progresses = sorted({one.progress for one in found if one.progress is not None})
    if not progresses:
        return
    colors = require("matplotlib", extra=EXTRA).colormaps[COLOR_MAP]
    line = require("matplotlib.lines", extra=EXTRA).Line2D
    handles = [line([], [], color=colors(0.9 * p), label=f"progress {p:g}") for p in progresses]
    handles.append(line([], [], color=COLORS[0], label="always"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
