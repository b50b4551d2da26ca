"""Figure of accuracy against cost: published binary networks, compact int8 networks, own measurements."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

from bnn_lightning.figures.style import COLORS, EXTRA, log_axis, new_figure
from bnn_lightning.utils.checks import check_choice
from bnn_lightning.utils.optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Kind = Literal["binary", "int8", "float", "ours"]
Cost = Literal["ops", "size", "ace", "latency"]


@dataclass(frozen=True)
class ComparedNetwork:
    """A network, what it scores and what it costs; None where that is not known.

    Attributes:
        name: As its authors call it.
        top1: Accuracy in percent.
        kind: "binary" and "float" as published, "int8" with all layers in 8 bits, "ours" measured by ourselves.
        family: Entries of one family are joined by a line.
        data: On which the accuracy was measured.
        network: Name of our registry, where it is the same.
        ops: Operations of an image, BOPs/64 + FLOPs, in which an 8-bit product counts as 1/8.
        size: Size of the parameters, in MB as its source prints them (some mean MiB).
        ace: Arithmetic computation effort.
        latency: Latency of an image, in milliseconds.
        source: Source of the figures.
        note: Remark on the figures.
    """

    name: str
    top1: float
    kind: Kind = "binary"
    family: str = ""
    data: str = ""
    network: str = ""
    ops: float | None = None
    size: float | None = None
    ace: float | None = None
    latency: float | None = None
    source: str = ""
    note: str = ""


_WIDTH, _FONT_SIZE = 9.2, 7  # of the figure in inches, of names in points

# Label of the axis, and the factor of its values.
_AXES: dict[Cost, tuple[str, float]] = {
    "ops": ("operations per image, millions (BOPs/64 + int8/8 + FLOPs)", 1e-6),
    "size": ("size of the parameters, MB", 1.0),
    "ace": ("arithmetic computation effort, billions", 1e-9),
    "latency": ("latency per image, ms", 1.0),
}
# Columns of the table of published networks: the cost that they hold, and the factor of their values.
_COLUMNS = {"ops_millions": ("ops", 1e6), "size_mb": ("size", 1.0), "ace_g": ("ace", 1e9)}
_LOOKS: dict[Kind, tuple[str, str, str]] = {
    "binary": ("binary, published", COLORS[0], "o"),
    "int8": ("int8", COLORS[4], "s"),
    "float": ("float32", "#777777", "^"),
    "ours": ("measured here", COLORS[1], "*"),
}


def published(data: str | None = None) -> list[ComparedNetwork]:
    """Read the table of published results that comes with the package, each row with its source.

    Args:
        data: Only those on this data set: "imagenet", "cifar10" or "mnist"; None takes all.

    Raises:
        ValueError: There is no row of that data set.

    Example:
        >>> next(entry for entry in published("imagenet") if entry.name == "ReActNet-A").top1
        69.4
    """
    text = files("bnn_lightning.figures").joinpath("published.csv").read_text(encoding="utf-8")
    entries = [_entry(row) for row in csv.DictReader(text.splitlines())]
    known = sorted({entry.data for entry in entries})
    if data is not None and data not in known:
        raise ValueError(f"`data` must be one of {known}, got {data!r}: of others nothing published is in the table.")
    return [entry for entry in entries if data in (None, entry.data)]


def _entry(row: Mapping[str, str]) -> ComparedNetwork:
    texts = {name: row[name] for name in ("name", "kind", "family", "data", "network", "source", "note")}
    costs = {name: float(row[column]) * factor for column, (name, factor) in _COLUMNS.items() if row[column]}
    return ComparedNetwork(top1=float(row["top1"]), **texts, **costs)  # type: ignore[arg-type]


def counted(entries: Iterable[ComparedNetwork], profiles: Mapping[str, Mapping[str, float]]) -> list[ComparedNetwork]:
    """Fill in costs that no source states, for networks that are in our registry, as we count them.

    Args:
        entries: Rows.
        profiles: By the name of a network, the sums of its profile (`Profile.totals()`), for the same data.

    Example:
        >>> entry = ComparedNetwork("SKD-BNN", 87.2, network="resnet20")
        >>> counted([entry], {"resnet20": {"ops": 1.5e6, "size_bytes": 46000, "ace": 2.0e8}})[0].ops
        1500000.0
    """
    return [_counted(entry, profiles[entry.network]) if entry.network in profiles else entry for entry in entries]


def _counted(entry: ComparedNetwork, totals: Mapping[str, float]) -> ComparedNetwork:
    own = {"ops": float(totals["ops"]), "size": totals["size_bytes"] / 1e6, "ace": float(totals["ace"])}
    missing = {name: value for name, value in own.items() if getattr(entry, name) is None}
    if not missing:
        return entry
    said = f"{', '.join(missing)} counted here" + (f"; {entry.note}" if entry.note else "")
    return replace(entry, note=said, **missing)  # type: ignore[arg-type]


def accuracy_against_cost(entries: Sequence[ComparedNetwork], *, cost: Cost = "ops", names: bool = True) -> "Figure":
    """Draw top-1 accuracy against a cost on a logarithmic axis; entries without that cost are left out.

    Args:
        entries: Published ones and our own, of one data set.
        cost: "ops", "size", "ace" or "latency".
        names: Write the name of each network beside its point.

    Raises:
        ValueError: An unknown cost, or no entry that has it.

    Example:
        >>> counted = [ComparedNetwork("A", 60.0, ops=1e8), ComparedNetwork("B", 70.0, ops=2e8)]
        >>> entries = [*counted, ComparedNetwork("C", 71.0)]
        >>> (axes,) = accuracy_against_cost(entries).axes
        >>> axes.get_xscale(), len(axes.texts)
        ('log', 2)
    """
    check_choice("cost", cost, Cost)
    drawn = [entry for entry in entries if getattr(entry, cost) is not None]
    if not drawn:
        raise ValueError(f"No entry has a `{cost}`: nothing to draw. Give measured ones, or another cost.")
    figure, (axes,) = new_figure(width=_WIDTH, height=6.4)
    for kind, (label, color, marker) in _LOOKS.items():
        own = [entry for entry in drawn if entry.kind == kind]
        if not own:
            continue
        size = 140 if kind == "ours" else 34
        axes.scatter(*_places(own, cost), s=size, color=color, marker=marker, label=label, zorder=3, lw=0)
        for family in dict.fromkeys(entry.family for entry in own if entry.family):
            axes.plot(*_places([e for e in own if e.family == family], cost), color=color, lw=0.9, alpha=0.6)
    if names:
        _write_names(axes, drawn, cost)
    log_axis(axes, "x")
    axes.set_xlabel(_AXES[cost][0])
    axes.set_ylabel("top-1 accuracy, %")
    axes.legend(frameon=False, loc="lower right")
    return figure


def _place(entry: ComparedNetwork, cost: Cost) -> tuple[float, float]:
    value: float = getattr(entry, cost)
    return value * _AXES[cost][1], entry.top1


def _places(entries: Sequence[ComparedNetwork], cost: Cost) -> tuple[list[float], list[float]]:
    places = sorted(_place(entry, cost) for entry in entries)
    return [x for x, _ in places], [y for _, y in places]


def _write_names(axes: "Axes", entries: Sequence[ComparedNetwork], cost: Cost) -> None:
    """Write each name at the first of eight places around its point where it covers least of what stands there.

    Where each place is taken, the name is left out, unless it is one of ours.
    """
    x_low, x_high = (math.log10(x) for x in _limits([_place(entry, cost)[0] for entry in entries], log=True))
    y_low, y_high = _limits([entry.top1 for entry in entries])
    axes.set_xlim(10**x_low, 10**x_high)
    axes.set_ylim(y_low, y_high)
    spots = [
        ((math.log10(x) - x_low) / (x_high - x_low), (y - y_low) / (y_high - y_low))
        for x, y in (_place(entry, cost) for entry in entries)
    ]
    taken = [(x - 0.008, y - 0.012, x + 0.008, y + 0.012) for x, y in spots]
    # Lines of families pass behind the names.
    halo = [require("matplotlib.patheffects", extra=EXTRA).withStroke(linewidth=2.0, foreground="white")]
    # Our own first: they have the best places.
    order = sorted(range(len(entries)), key=lambda i: (entries[i].kind != "ours", -entries[i].top1))
    for index in order:
        entry, (x, y) = entries[index], spots[index]
        width, height = _text_width(entry.name, bold=entry.kind == "ours") + 0.004, 0.022
        boxes = [(left, low, left + width, low + height) for left, low in _around(x, y, width, height)]
        covered = [sum(_overlap(box, other) for other in taken) for box in boxes]
        if min(covered) > 0.05 * width * height and entry.kind != "ours":
            continue
        box = boxes[covered.index(min(covered))]
        taken.append(box)
        axes.annotate(
            entry.name,
            _place(entry, cost),
            xytext=(box[0], (box[1] + box[3]) / 2),
            textcoords="axes fraction",
            va="center",
            fontsize=_FONT_SIZE,
            color=_LOOKS[entry.kind][1],
            fontweight="bold" if entry.kind == "ours" else "normal",
            path_effects=halo,
        )


def _text_width(text: str, *, bold: bool) -> float:
    """Return the width of a name as a part of the width of the axes, which take 94 % of the figure."""
    font = require("matplotlib.font_manager", extra=EXTRA).FontProperties(weight="bold" if bold else "normal")
    path = require("matplotlib.textpath", extra=EXTRA).TextPath((0, 0), text, size=_FONT_SIZE, prop=font)
    points: float = path.get_extents().width
    return points / (0.94 * 72 * _WIDTH)


def _limits(values: Sequence[float], *, log: bool = False) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        margin = max(0.1, 0.14 * math.log10(high / low))
        return low / 10 ** (0.6 * margin), high * 10**margin
    margin = max(0.5, 0.06 * (high - low))
    return low - margin, high + margin


def _around(x: float, y: float, width: float, height: float) -> list[tuple[float, float]]:
    gap = 0.009
    right, left, middle = x + gap, x - gap - width, x - width / 2
    near = [(right, y - height / 2), (left, y - height / 2), (right, y + gap), (right, y - gap - height)]
    far = [(left, y + gap), (left, y - gap - height), (middle, y + 1.4 * gap), (middle, y - 1.4 * gap - height)]
    return [(min(max(a, 0.0), 1 - width), b) for a, b in near + far]


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def comparison_table(entries: Iterable[ComparedNetwork]) -> tuple[list[str], list[list[str | float | None]]]:
    """Return the numbers of the figure with their sources, the most accurate network first.

    Returns:
        Names of the columns, and a row an entry.
    """
    header = [field.name for field in fields(ComparedNetwork)]
    best_first = sorted(entries, key=lambda entry: -entry.top1)
    return header, [[getattr(entry, name) for name in header] for entry in best_first]
