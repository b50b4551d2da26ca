"""Heat map of the soft-label bank of SKD-BNN."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bnn_lightning.figures.style import COLOR_MAP, new_figure
from bnn_lightning.utils.checks import check_positive

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Cells of more classes are too small for numbers, and of still more for names.
_NUMBERS, _NAMES = 20, 60


def plot_soft_labels(
    bank: ArrayLike, *, temperature: float = 4.0, class_names: Sequence[str] = (), valid: ArrayLike | None = None
) -> "Figure":
    """Draw a soft-label bank: mean logits, and the soft labels that the loss takes them for.

    Args:
        bank: (C, C) mean logits; row = true class, column = logit.
        temperature: Temperature of the soft labels, `softmax(bank / temperature)`.
        class_names: One a class; none takes numbers.
        valid: (C,) whether a row has ever been filled; empty rows stay white.

    Raises:
        ValueError: A bank that is not square, another number of names, or a temperature that is not positive.

    Example:
        >>> figure = plot_soft_labels(np.eye(3), temperature=4.0, class_names=["a", "b", "c"])
        >>> [axes.get_title() for axes in figure.axes[:2]]
        ['mean logits', 'soft labels at T = 4 (%)']
    """
    bank = np.asarray(bank, dtype=np.float64)
    classes = bank.shape[0]
    if bank.shape != (classes, classes):
        raise ValueError(f"`bank` must have shape (C, C), got {bank.shape}.")
    check_positive("temperature", temperature)
    names = list(class_names) or [str(label) for label in range(classes)]
    if len(names) != classes:
        raise ValueError(f"`class_names` must have a name for each of {classes} classes, got {len(names)}.")
    filled = np.ones(classes, dtype=bool) if valid is None else np.asarray(valid)
    logits = np.where(filled[:, None], bank, np.nan)
    size = max(3.6, min(0.42 * classes, 9.0))
    figure, axes = new_figure(1, 2, width=size + 1.0, height=size, layout="compressed")
    limit = float(np.abs(bank).max()) or 1.0
    soft = 100 * soft_labels(logits, temperature)
    _heat(figure, axes[0], logits, names, "mean logits", cmap="RdBu_r", vmin=-limit, vmax=limit)
    _heat(figure, axes[1], soft, names, f"soft labels at T = {temperature:g} (%)", cmap=COLOR_MAP, vmin=0.0)
    return figure


def soft_labels(bank: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """Return the soft labels of a bank, a distribution a row: `softmax(bank / temperature)`."""
    scaled = np.asarray(bank, dtype=np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    found: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return found


def _heat(
    figure: "Figure", ax: "Axes", values: NDArray[np.float64], names: list[str], title: str, **colors: Any
) -> None:
    image = ax.imshow(values, **colors)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=10)
    ax.set_xlabel("logit of", fontsize=9)
    ax.set_ylabel("true class", fontsize=9)
    if len(names) <= _NAMES:
        ax.set_xticks(range(len(names)), names, fontsize=8)
        if max(map(len, names)) > 2:
            ax.tick_params(axis="x", labelrotation=45)
            for label in ax.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
        ax.set_yticks(range(len(names)), names, fontsize=8)
    bar = figure.colorbar(image, ax=ax, shrink=0.8)
    bar.ax.tick_params(labelsize=8)
    if len(names) > _NUMBERS:
        return
    shown = image.to_rgba(values)
    for row, column in np.ndindex(values.shape):
        value = float(values[row, column])
        if value == value:  # empty rows have none
            red, green, blue, _ = shown[row, column]
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            text = f"{value:.1f}" if abs(value) < 9.95 else f"{value:.0f}"
            text = text.replace("-0.0", "0.0")
            ax.text(column, row, text, ha="center", va="center", fontsize=6.5, color="white" if dark else "black")
