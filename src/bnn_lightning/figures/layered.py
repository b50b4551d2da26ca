"""One level of a layout: items in rows so that every link goes down, few of them cross, and most are straight."""

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Point = tuple[float, float]
Sizes = Mapping[str, tuple[float, float]]

_ROW_GAP = 15.0
_SWEEPS = 12
_RELAXATIONS = 90


@dataclass
class Link:
    """A line from the lower side of an item to the upper side of one in a later row.

    Attributes:
        net: Links of one net share their way as far as they go together.
        source: An item.
        target: An item.
        leaves: Place at the source, from its left side.
        arrives: Place at the target, from its left side; None shares the side with the target's others.
    """

    net: str
    source: str
    target: str
    leaves: float
    arrives: float | None = None


@dataclass
class Layered:
    """Places of items and links, from (0, 0).

    Attributes:
        boxes: Left, top, width and height of each item.
        chains: For each net and target, the points from source to target.
        width: Width of everything.
        height: Height of everything.
    """

    boxes: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)
    chains: dict[tuple[str, str], list[Point]] = field(default_factory=dict)
    width: float = 0.0
    height: float = 0.0


def arrange(sizes: Sizes, links: Sequence[Link], *, gap: float) -> Layered:
    """Place items and links.

    Args:
        sizes: Width and height of each item, in the order in which they may stand; of width 0 are ports, which stand in
            the first row where their name begins with "<", and in the last where it begins with ">".
        links: Between them, without cycles.
        gap: Between items of a row, at least.

    Returns:
        The places.
    """
    return _Arrangement(dict(sizes), list(links), gap).run()


def place_in_row(
    desired: Sequence[float], weights: Sequence[float], widths: Sequence[float], gap: float
) -> list[float]:
    """Return the middles of boxes in a row that are closest to the desired ones, in order and not overlapping.

    Args:
        desired: Middles.
        weights: Weights of the squared distances.
        widths: Widths of the boxes.
        gap: Between two boxes, at least.

    Example:
        >>> place_in_row([0.0, 0.0], [1.0, 1.0], [4.0, 4.0], gap=2.0)
        [-3.0, 3.0]
    """
    # Isotonic regression (pool adjacent violators) of what is left when the distances that are needed are taken off.
    offsets = [0.0]
    for left, right in itertools.pairwise(widths):
        offsets.append(offsets[-1] + (left + right) / 2 + gap)
    pools: list[list[float]] = []  # mean, weight, number
    for wish, weight, offset in zip(desired, weights, offsets, strict=True):
        pools.append([wish - offset, weight, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, more, number = pools.pop()
            last = pools[-1]
            last[0] = (last[0] * last[1] + mean * more) / (last[1] + more)
            last[1] += more
            last[2] += number
    means = [mean for mean, _, number in pools for _ in range(int(number))]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def count_crossings(upper: Sequence[int], lower: Sequence[int]) -> int:
    """Count the pairs of lines between two rows that cross, from the places of their ends.

    Example:
        >>> count_crossings([0, 1], [1, 0])
        1
    """
    ends = list(zip(upper, lower, strict=True))
    return sum((a - c) * (b - d) < 0 for i, (a, b) in enumerate(ends) for c, d in ends[:i])


class _Arrangement:
    """Sugiyama's method: rows, dummies for links that pass rows, order by barycentres, places by relaxation."""

    def __init__(self, sizes: dict[str, tuple[float, float]], links: list[Link], gap: float) -> None:
        self.sizes, self.links, self.gap = sizes, links, gap
        self.row = self._rows()
        self.height = max(self.row.values(), default=0) + 1
        self.order: list[list[str]] = [[] for _ in range(self.height)]
        # Lines between neighboring rows: upper end, lower end, where they touch both.
        self.lines: dict[tuple[str, str], tuple[float | None, float | None]] = {}
        self._chain()
        self.middle: dict[str, float] = {}

    def run(self) -> Layered:
        self._sort()
        self._share_sides()
        self._relax()
        return self._finish()

    def _rows(self) -> dict[str, int]:
        below: dict[str, list[str]] = defaultdict(list)
        entering: dict[str, int] = dict.fromkeys(self.sizes, 0)
        for link in self.links:
            below[link.source].append(link.target)
            entering[link.target] += 1
        sources = [name for name, number in entering.items() if number == 0]
        entries = int(any(name[0] == "<" for name in self.sizes))
        ready, left = list(sources), dict(entering)
        row = {name: 0 if name[0] == "<" else entries for name in self.sizes}
        order: list[str] = []
        while ready:
            name = ready.pop()
            order.append(name)
            for target in below[name]:
                row[target] = max(row[target], row[name] + 1)
                left[target] -= 1
                if left[target] == 0:
                    ready.append(target)
        if len(order) != len(self.sizes):
            raise ValueError("The graph has a cycle, and cannot be drawn in layers.")
        for name in reversed(order):  # what waits for nothing stands just above what needs it
            if name[0] != "<" and below[name] and name in sources:
                row[name] = max(min(row[target] for target in below[name]) - 1, entries)
        last = max((r for name, r in row.items() if name[0] != ">"), default=0) + 1
        return {name: last if name[0] == ">" else r for name, r in row.items()}

    def _chain(self) -> None:
        """Put items and dummies into their rows: one dummy for each net and row that it passes."""
        for name in self.sizes:
            self.order[self.row[name]].append(name)
        self.ways: dict[tuple[str, str], list[str]] = {}
        for link in self.links:
            way = [link.source]
            for row in range(self.row[link.source] + 1, self.row[link.target]):
                dummy = f"|{row}|{link.net}"
                if dummy not in self.row:
                    self.row[dummy] = row
                    self.sizes[dummy] = (0.0, 0.0)
                    self.order[row].append(dummy)
                way.append(dummy)
            way.append(link.target)
            self.ways[link.net, link.target] = way
            for upper, lower in itertools.pairwise(way):
                leaves = link.leaves if upper == link.source else 0.0
                arrives = link.arrives if lower == link.target else 0.0
                self.lines[upper, lower] = (leaves, arrives)

    def _sort(self) -> None:
        given = [list(row) for row in self.order]
        # Large parts to the left and parts that pass by to the right; as the network computes; and the other way round.
        by_size = [sorted(row, key=lambda name: -self.sizes[name][0] * self.sizes[name][1]) for row in given]
        best, fewest = by_size, -1
        for start in (by_size, given, [row[::-1] for row in given]):
            self.order = [list(row) for row in start]
            for sweep in range(_SWEEPS):
                crossings = self._crossings()
                if fewest < 0 or crossings < fewest:
                    best, fewest = [list(row) for row in self.order], crossings
                if fewest == 0:
                    break
                rows = range(1, self.height) if sweep % 2 == 0 else range(self.height - 2, -1, -1)
                for row in rows:
                    self._sort_row(row, row - 1 if sweep % 2 == 0 else row + 1)
        self.order = best

    def _sort_row(self, row: int, other: int) -> None:
        place = {name: index for index, name in enumerate(self.order[other])}
        ends: dict[str, list[float]] = defaultdict(list)
        for (upper, lower), (leaves, arrives) in self.lines.items():
            for name, near, touch in ((upper, lower, arrives), (lower, upper, leaves)):
                if self.row[name] == row and near in place:
                    width = self.sizes[near][0]
                    ends[name].append(place[near] + (0.5 if not width or touch is None else touch / width))
        now = {name: index for index, name in enumerate(self.order[row])}
        keys = {name: sum(ends[name]) / len(ends[name]) if ends[name] else float(now[name]) for name in now}
        self.order[row].sort(key=lambda name: (keys[name], now[name]))

    def _crossings(self) -> int:
        total = 0
        place = {name: index for row in self.order for index, name in enumerate(row)}
        for row in range(self.height - 1):
            here = [(place[a], place[b]) for a, b in self.lines if self.row[a] == row]
            total += count_crossings([a for a, _ in here], [b for _, b in here])
        return total

    def _share_sides(self) -> None:
        """Spread the lines that arrive at an item, in the order of where they come from."""
        place = {name: index for row in self.order for index, name in enumerate(row)}
        arriving: dict[str, list[str]] = defaultdict(list)
        for (upper, lower), (_, arrives) in self.lines.items():
            if arrives is None:
                arriving[lower].append(upper)
        for lower, uppers in arriving.items():
            uppers.sort(key=place.__getitem__)
            for index, upper in enumerate(uppers):
                share = (index + 0.5) / len(uppers)
                self.lines[upper, lower] = (self.lines[upper, lower][0], share * self.sizes[lower][0])

    def _relax(self) -> None:
        for row in self.order:
            widths = [self.sizes[name][0] for name in row]
            self.middle.update(
                zip(row, place_in_row([0.0] * len(row), [1.0] * len(row), widths, self.gap), strict=False)
            )
        near: dict[str, list[tuple[str, float, float]]] = defaultdict(list)
        for (upper, lower), (leaves, arrives) in self.lines.items():
            assert leaves is not None
            assert arrives is not None
            # From middle to middle, when the line is straight. Long lines are to be straight before all else.
            shift = (leaves - self.sizes[upper][0] / 2) - (arrives - self.sizes[lower][0] / 2)
            weight = 8.0 if upper[0] == lower[0] == "|" else 2.0 if "|" in (upper[0], lower[0]) else 1.0
            near[lower].append((upper, shift, weight))
            near[upper].append((lower, -shift, weight))
        for turn in range(_RELAXATIONS):
            for row in self.order if turn % 2 == 0 else reversed(self.order):
                self._relax_row(row, near, absolute=turn >= _RELAXATIONS // 3)

    def _relax_row(self, row: list[str], near: dict[str, list[tuple[str, float, float]]], *, absolute: bool) -> None:
        desired, weights = [], []
        for name in row:
            pulls = []
            for other, shift, weight in near[name]:
                x = self.middle[other] + shift
                # Divided by the distance, the square becomes the distance itself, whose least sum has straight lines.
                pulls.append((x, weight / max(abs(x - self.middle[name]), 0.5) if absolute else weight))
            weight = sum(w for _, w in pulls)
            desired.append(sum(x * w for x, w in pulls) / weight if pulls else self.middle[name])
            weights.append(weight or 1e-3)
        self.middle.update(
            zip(row, place_in_row(desired, weights, [self.sizes[name][0] for name in row], self.gap), strict=True)
        )

    def _finish(self) -> Layered:
        left = min((self.middle[name] - self.sizes[name][0] / 2 for name in self.middle), default=0.0)
        right = max((self.middle[name] + self.sizes[name][0] / 2 for name in self.middle), default=0.0)
        placed = Layered(width=right - left)
        top = 0.0
        bands = []
        for number, row in enumerate(self.order):
            height = max(self.sizes[name][1] for name in row)
            bands.append((top, top + height))
            for name in row:
                width, own = self.sizes[name]
                x = self.middle[name] - width / 2 - left
                placed.boxes[name] = (x, top + (height - own) / 2, width, own)
            top += height + (_ROW_GAP if number + 1 < self.height else 0.0)
        placed.height = top
        for key, way in self.ways.items():
            placed.chains[key] = self._points(way, placed, bands)
        return placed

    def _points(self, way: list[str], placed: Layered, bands: list[tuple[float, float]]) -> list[Point]:
        points: list[Point] = []
        for upper, lower in itertools.pairwise(way):
            leaves, arrives = self.lines[upper, lower]
            assert leaves is not None
            assert arrives is not None
            x, y, _, height = placed.boxes[upper]
            points += [(x + leaves, y + height), (x + leaves, bands[self.row[upper]][1])]
            x, y, _, _ = placed.boxes[lower]
            points += [(x + arrives, bands[self.row[lower]][0]), (x + arrives, y)]
        return points
