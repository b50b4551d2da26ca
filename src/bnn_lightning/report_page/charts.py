"""Geometry of SVG charts: places of lines, ticks, squares and texts."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bnn_lightning.report_page.content import Cell, Matrix
from bnn_lightning.utils.curve_panels import is_wide

_WIDTH, _HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 36
_COLORS = 6  # --c1 to --c6 in the style sheet
_MOST_HANDLES = 60  # points of a line that say their value under the mouse

Points = Sequence[tuple[float, float]]


class _Scale(NamedTuple):
    """From values to places along an axis."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (map(math.log10, (self.low, self.high, value))) if self.log else (self.low, self.high, value)
        return self.start + (self.end - self.start) * (value - low) / ((high - low) or 1.0)


class Line(NamedTuple):
    """A line of a chart: its name, color (1 to 6), look, points in the picture, last value, and texts at points."""

    name: str
    color: int
    is_dashed: bool
    places: list[tuple[float, float]]
    last: str
    handles: list[tuple[float, float, str]]


class Chart(NamedTuple):
    """A chart of lines: title, description, ticks of both axes (place and text), lines, and edges of its axes."""

    title: str
    label: str
    rows: list[tuple[float, str]]
    columns: list[tuple[float, str]]
    lines: list[Line]
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _WIDTH - _RIGHT
    bottom: int = _HEIGHT - _BOTTOM


class Square(NamedTuple):
    """A square of a heat map."""

    x: float
    y: float
    opacity: float
    title: str
    text: str
    is_strong: bool


class HeatMap(NamedTuple):
    """A heat map: names at its rows and columns (place and text), and its squares of `size`."""

    width: int
    height: int
    size: int
    row_names: list[tuple[float, float, str]]
    column_names: list[tuple[float, float, str]]
    cells: list[Square]


def number(value: Cell) -> str:
    """Return a number as it is read best; text as it is.

    Example:
        >>> number(1234567), number(0.123456), number(98.95), number(1e-7), number("text")
        ('1,234,567', '0.1235', '98.95', '1e-07', 'text')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 1000):
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.1f}"


def line_chart(title: str, lines: Mapping[str, Points], *, log: bool = False, unit: str = "") -> Chart:
    """Lay out a chart of lines, whose legend has their last values.

    Args:
        title: Above it.
        lines: By name, points (x, y) in the order of x; those that are not finite are left out.
        log: Logarithmic, where the values are positive and span more than a factor of 20.
        unit: After values, such as " %".
    """
    drawn = {name: [p for p in points if math.isfinite(p[1])] for name, points in lines.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    values = [y for points in drawn.values() for _, y in points]
    log = log and is_wide(values)
    if log:
        drawn = {name: [p for p in points if p[1] > 0] for name, points in drawn.items()}
        drawn = {name: points for name, points in drawn.items() if points}
        values = [value for value in values if value > 0]
    xs = [x for points in drawn.values() for x, _ in points]
    across = _Scale(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT)
    up = _vertical(values, log)
    rows = [(_place(up(value)), number(value)) for value in ticks(up.low, up.high, log=log)]
    whole = sorted({round(value) for value in ticks(across.low, across.high, most=6)})
    columns = [(_place(across(value)), str(value)) for value in whole if across.low <= value <= across.high]
    label = f"{title}: " + ", ".join(f"{name} {number(points[-1][1])}{unit}" for name, points in drawn.items())
    named = [_line(index, name, points, across, up, unit) for index, (name, points) in enumerate(drawn.items())]
    return Chart(title, label, rows, columns, named)


def _line(index: int, name: str, points: Points, across: _Scale, up: _Scale, unit: str) -> Line:
    places = [(_place(across(x)), _place(up(y))) for x, y in points]
    every = max(1, math.ceil(len(points) / _MOST_HANDLES))
    texts = [f"{name}, {x:g}: {number(y)}{unit}" for x, y in points]
    handles = [(x, y, text) for (x, y), text in list(zip(places, texts, strict=True))[::every]]
    # Every second one is dashed, so that they are told apart without colors, too.
    return Line(name, 1 + index % _COLORS, bool(index % 2), places, f"{number(points[-1][1])}{unit}", handles)


def _vertical(values: Sequence[float], log: bool) -> _Scale:
    low, high = min(values), max(values)
    if log:
        return _Scale(low / 1.2, high * 1.2, _HEIGHT - _BOTTOM, _TOP, log=True)
    margin = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
    bottom = 0.0 if 0 <= low < 0.35 * high else low - margin
    return _Scale(bottom, high + margin, _HEIGHT - _BOTTOM, _TOP)


def _place(value: float) -> float:
    return round(value, 1)


def ticks(low: float, high: float, *, most: int = 5, log: bool = False) -> list[float]:
    """Return round numbers between two values, at most `most`; with `log` powers of ten, and 2 and 5 of few decades.

    Example:
        >>> ticks(0.0, 2.1), ticks(52.0, 61.0), ticks(0.002, 3.0, log=True)
        ([0.0, 0.5, 1.0, 1.5, 2.0], [52.0, 54.0, 56.0, 58.0, 60.0], [0.01, 0.1, 1.0])
    """
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        powers = [float(f"1e{d}") for d in decades if low <= float(f"1e{d}") <= high]
        if len(powers) >= 2:
            return powers[:: math.ceil(len(powers) / most)]
        return [v for d in decades for m in (1, 2, 5) if low <= (v := float(f"{m}e{d}")) <= high]
    if high <= low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def heat_map(matrix: Matrix, *, rows: str, columns: str, counts: bool) -> HeatMap:
    """Lay out a matrix as squares, the darker the larger within their row, with its numbers in them.

    Args:
        matrix: Matrix of few classes.
        rows: Meaning of the rows.
        columns: Meaning of the columns.
        counts: Numbers of images; otherwise shares, written in percent.
    """
    size, left, top = 34, 84, 74
    edge = size * len(matrix.names) + 2
    middles = [size * index + size / 2 for index in range(len(matrix.names))]
    row_names = [
        (left - 6.0, top + middle + 4, _short(name)) for name, middle in zip(matrix.names, middles, strict=True)
    ]
    column_names = [(left + at + 4, top - 6.0, _short(name)) for name, at in zip(matrix.names, middles, strict=True)]
    cells = []
    for i, (name, row) in enumerate(zip(matrix.names, matrix.values.tolist(), strict=True)):
        largest = max(map(abs, row)) or 1.0
        for j, value in enumerate(row):
            title = f"{rows} {name}, {columns} {matrix.names[j]}: {number(value) if counts else f'{100 * value:.2f} %'}"
            # The square root shows rare confusions beside a strong diagonal.
            strength = math.sqrt(max(0.0, value) / largest)
            text = f"{value:.0f}" if counts else f"{100 * value:.0f}"
            opacity = round(0.05 + 0.85 * strength, 3)
            shown = "" if text == "0" else text
            cells.append(Square(left + size * j, top + size * i, opacity, title, shown, strength > 0.72))
    return HeatMap(left + edge, top + edge, size, row_names, column_names, cells)


def _short(name: str, most: int = 12) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
