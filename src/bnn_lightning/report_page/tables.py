"""Tables and charts of a page, computed from the content of a run."""

import math
from collections.abc import Iterable

from bnn_lightning.report_page.charts import Chart, line_chart
from bnn_lightning.report_page.content import Cell, Matrix, Table
from bnn_lightning.utils.curve_panels import PANELS, CurvePanel
from bnn_lightning.utils.curves import Curves

_TIME = CurvePanel("Seconds per epoch", ("s_per_epoch",))
# The section of the binary weights shows it, the section of the training all others.
FLIPS = next(panel for panel in PANELS if "binary/flip_rate" in panel.names)
TRAINING = (*(panel for panel in PANELS if panel is not FLIPS), _TIME)


def curve_charts(curves: Curves, panels: Iterable[CurvePanel]) -> list[Chart]:
    """Return the charts of those panels of which something was logged."""
    charts = []
    for panel in panels:
        factor, lines = 100.0 if panel.percent else 1.0, {}
        for name in panel.series(curves):
            pairs = zip(curves.get("epoch", []), curves[name], strict=False)
            points = [(epoch + 1, factor * value) for epoch, value in pairs if math.isfinite(value)]
            if points:
                lines[panel.title.lower() if len(panel.names) == 1 else panel.label(name)] = points
        if lines:
            charts.append(line_chart(panel.title, lines, log=panel.log, unit=" %" if panel.percent else ""))
    return charts


def all_epochs(curves: Curves) -> Table | None:
    """Return all that was logged, a row an epoch."""
    if not curves.get("epoch"):
        return None
    names = [name for name in curves if name != "epoch"]
    rows: list[list[Cell]] = [
        [int(epoch) + 1, *("" if math.isnan(curves[name][i]) else float(curves[name][i]) for name in names)]
        for i, epoch in enumerate(curves["epoch"])
    ]
    return Table(["epoch", *names], rows)


def per_class(confusion: Matrix) -> list[tuple[str, float, float, int]]:
    """Return name, recall and precision in percent, and number of images of each class, the worst recall first."""
    values, rows = confusion.values, []
    for index, name in enumerate(confusion.names):
        images, predicted = float(values[index].sum()), float(values[:, index].sum())
        recall = 100 * float(values[index, index]) / images if images else 0.0
        precision = 100 * float(values[index, index]) / predicted if predicted else 0.0
        rows.append((name, recall, precision, int(images)))
    return sorted(rows, key=lambda row: row[1])


def most_confused(confusion: Matrix, most: int = 8) -> Table:
    """Return the pairs of classes that are confused most often."""
    names, values = confusion.names, confusion.values
    pairs = [(int(values[i, j]), i, j) for i in range(len(names)) for j in range(len(names)) if i != j and values[i, j]]
    worst = sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))[:most]
    return Table(["true", "predicted", "images"], [[names[i], names[j], count] for count, i, j in worst])
