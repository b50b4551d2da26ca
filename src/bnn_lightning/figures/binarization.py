"""Figure of the binary shares of networks: of their parameters, multiply-accumulates and operations."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bnn_lightning.figures.style import COLORS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# By the names of `Profile.totals()`.
SHARES = {
    "binary_parameter_share": "parameters",
    "binary_mac_share": "multiply-accumulates",
    "degree_of_binarization": "operations (degree of binarization)",
    "degree_of_binarization_int8_rest": "operations, int8 rest",
}
_COUNTS = (
    "parameters",
    "binary_weights",
    "binary_macs",
    "mixed_macs",
    "float_macs",
    "ops",
    "ops_int8_rest",
    "size_bytes",
)

Totals = Mapping[str, float]


def binarization_table(profiles: Mapping[str, Totals]) -> tuple[list[str], list[list[str | float]]]:
    """Return the binary shares of networks, a row a network.

    Args:
        profiles: By name, the sums of a network's profile (`Profile.totals()`).

    Returns:
        Names of the columns, and the rows.
    """
    header = ["network", *_COUNTS, *SHARES]
    return header, [[name, *(totals[key] for key in header[1:])] for name, totals in profiles.items()]


def binarization_bars(profiles: Mapping[str, Totals]) -> "Figure":
    """Draw the binary shares of networks as bars.

    A share of 97 % binary operations means that 3 % of the operations are still real: where they are few, the real
    layers that are left cost as much as all binary ones.

    Args:
        profiles: By name, the sums of a network's profile (`Profile.totals()`).

    Raises:
        ValueError: There is no network.

    Example:
        >>> shares = dict.fromkeys(SHARES, 0.5)
        >>> axes = binarization_bars({"a": shares, "b": shares}).axes[0]
        >>> [label.get_text() for label in axes.get_yticklabels()]
        ['a', 'b']
    """
    if not profiles:
        raise ValueError("`profiles` is empty: give at least one network.")
    figure, (axes,) = new_figure(width=7.2, height=0.8 + 0.62 * len(profiles))
    height = 0.8 / len(SHARES)
    for index, (key, label) in enumerate(SHARES.items()):
        places = [row + (index - (len(SHARES) - 1) / 2) * height for row in range(len(profiles))]
        percent = [100 * totals[key] for totals in profiles.values()]
        bars = axes.barh(places, percent, height=0.9 * height, color=COLORS[index], label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=6.5, padding=2)
    axes.set_yticks(range(len(profiles)), list(profiles))
    axes.set_ylim(len(profiles) - 0.4, -0.6)
    axes.set_xlim(0, 108)
    axes.set_xlabel("binary, %")
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return figure
