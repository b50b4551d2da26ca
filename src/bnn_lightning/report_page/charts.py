"""Charts as SVG, in the colors of the page: they follow its light or dark scheme."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bnn_lightning.report_page.content import Matrix
from bnn_lightning.report_page.html import Html, join, number, tag

_WIDTH, _HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 26
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


def line_chart(title: str, lines: Mapping[str, Points], *, log: bool = False, unit: str = "") -> Html:
    """Return a chart of lines with its title and, as its legend, their last values.

    Args:
        title: Above it.
        lines: By name, points (x, y) in the order of x; those that are not finite are left out.
        log: Logarithmic, where the values are positive and span more than a factor of 20.
        unit: After values, such as " %".
    """
    drawn = {name: [p for p in points if math.isfinite(p[1])] for name, points in lines.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    values = [y for points in drawn.values() for _, y in points]
    positive = [y for y in values if y > 0]
    log = log and bool(positive) and max(positive) > 20 * min(positive)
    if log:
        drawn = {name: [p for p in points if p[1] > 0] for name, points in drawn.items()}
        values = positive
    xs = [x for points in drawn.values() for x, _ in points]
    across = _Scale(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT)
    up = _vertical(values, log)
    parts = [*_grid(across, up), *_lines(drawn, across, up, unit)]
    label = f"{title}: " + ", ".join(
        f"{name} {number(points[-1][1])}{unit}" for name, points in drawn.items() if points
    )
    picture = tag("svg", *parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=label)
    return tag("figure", tag("figcaption", tag("strong", title), _legend(drawn, unit)), picture, class_="chart")


def _vertical(values: Sequence[float], log: bool) -> _Scale:
    low, high = min(values), max(values)
    if log:
        return _Scale(low / 1.2, high * 1.2, _HEIGHT - _BOTTOM, _TOP, log=True)
    margin = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
    bottom = 0.0 if 0 <= low < 0.35 * high else low - margin
    return _Scale(bottom, high + margin, _HEIGHT - _BOTTOM, _TOP)


def _grid(across: _Scale, up: _Scale) -> list[Html]:
    parts = []
    for value in ticks(up.low, up.high, log=up.log):
        y = up(value)
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=_place(y), y2=_place(y), class_="grid"))
        parts.append(tag("text", number(value), x=_LEFT - 6, y=_place(y + 3.5), text_anchor="end"))
    whole = sorted({round(value) for value in ticks(across.low, across.high, most=6)})
    for value in [value for value in whole if across.low <= value <= across.high]:
        x = _place(across(value))
        parts.append(tag("text", str(value), x=x, y=_HEIGHT - _BOTTOM + 15, text_anchor="middle"))
    return parts


def _lines(drawn: Mapping[str, Points], across: _Scale, up: _Scale, unit: str) -> list[Html]:
    parts = []
    for index, (name, points) in enumerate(drawn.items()):
        places = [(_place(across(x)), _place(up(y))) for x, y in points]
        color = f"c{1 + index % _COLORS}"
        dashed = "5 3" if index % 2 else None  # told apart without colors, too
        path = " ".join(f"{x},{y}" for x, y in places)
        parts.append(tag("polyline", points=path, class_=f"line {color}", stroke_dasharray=dashed))
        if len(places) == 1:
            parts.append(tag("circle", cx=places[0][0], cy=places[0][1], r=3, class_=f"dot {color}"))
        every = max(1, math.ceil(len(points) / _MOST_HANDLES))
        parts += [
            tag("circle", tag("title", f"{name}, {x:g}: {number(y)}{unit}"), cx=cx, cy=cy, r=6, class_="handle")
            for (x, y), (cx, cy) in list(zip(points, places, strict=True))[::every]
        ]
    return parts


def _legend(drawn: Mapping[str, Points], unit: str) -> Html:
    items = []
    for index, (name, points) in enumerate(drawn.items()):
        last = f" {number(points[-1][1])}{unit}" if points else ""
        items.append(tag("span", tag("i", class_=f"c{1 + index % _COLORS}"), name, tag("b", last)))
    return tag("span", *items, class_="legend")


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


def heat_map(matrix: Matrix, *, rows: str, columns: str, counts: bool) -> Html:
    """Return a matrix as squares, the darker the larger within their row, with its numbers in them.

    Args:
        matrix: Of few classes.
        rows: What the rows are.
        columns: What the columns are.
        counts: Numbers of images; otherwise shares, written in percent.
    """
    size, left, top = 34, 84, 74
    classes = len(matrix.names)
    whole = size * classes
    parts = []
    for i, (name, row) in enumerate(zip(matrix.names, matrix.values.tolist(), strict=True)):
        middle = top + size * i + size / 2
        parts.append(tag("text", _short(name), x=left - 6, y=middle + 4, text_anchor="end"))
        x = left + size * i + size / 2
        parts.append(tag("text", _short(name), transform=f"translate({x + 4:g},{top - 6}) rotate(-55)"))
        largest = max(map(abs, row)) or 1.0
        for j, value in enumerate(row):
            title = f"{rows} {name}, {columns} {matrix.names[j]}: {number(value) if counts else f'{100 * value:.2f} %'}"
            parts += _square(left + size * j, top + size * i, size, value, largest, title, counts)
    label = f"{rows} by {columns}"
    width, height = left + whole + 2, top + whole + 2
    picture = tag("svg", *parts, viewBox=f"0 0 {width} {height}", role="img", aria_label=label, class_="heat")
    note = tag("figcaption", f"Rows: {rows}. Columns: {columns}.")
    return tag("figure", note, tag("div", picture, class_="scroll", tabindex="0", role="region", aria_label=label))


def _square(x: float, y: float, size: int, value: float, largest: float, title: str, counts: bool) -> list[Html]:
    # The square root shows rare confusions beside a strong diagonal.
    strength = math.sqrt(max(0.0, value) / largest)
    place = {"x": x + 1, "y": y + 1, "width": size - 2, "height": size - 2, "rx": 3}
    parts = [tag("rect", tag("title", title), **place, class_="cell", fill_opacity=round(0.05 + 0.85 * strength, 3))]
    text = f"{value:.0f}" if counts else f"{100 * value:.0f}"
    if text != "0":
        strong = "strong" if strength > 0.72 else None
        parts.append(tag("text", text, x=x + size / 2, y=y + size / 2 + 4, text_anchor="middle", class_=strong))
    return parts


def _short(name: str, most: int = 12) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def bar(share: float) -> Html:
    """Return a bar, and its share in percent."""
    return join(
        tag("span", tag("i", style=f"width:{100 * share:.1f}%"), class_="bar"),
        tag("span", f"{100 * share:.1f}"),
    )
