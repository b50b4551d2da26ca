"""The sections of a page, each from what it is given."""

import math
from collections.abc import Mapping, Sequence

from bnn_lightning.report_page.charts import bar, heat_map, line_chart
from bnn_lightning.report_page.content import Cell, Example, Matrix, RunContent, Table
from bnn_lightning.report_page.html import Html, join, table, tag
from bnn_lightning.report_page.pictures import example, matrix_picture
from bnn_lightning.utils.curves import Curves

# With more classes the numbers could not be read; every pixel of a picture still can.
_MOST_SQUARES = 20
_SPLITS = ("train", "val", "test")


def training(run: RunContent) -> Html | None:
    """Charts of what was logged, and all of it as a table."""
    curves = run.curves
    if not curves.get("epoch"):
        return None
    charts = [
        _chart(curves, "Loss", _of_splits("loss")),
        _chart(curves, "Top-1 accuracy", _of_splits("acc"), percent=True),
        _chart(curves, "Top-5 accuracy", _of_splits("acc_top5"), percent=True),
        _chart(curves, "Terms of the training loss", _with_prefix(curves, "train/loss_"), log=True),
        _chart(curves, "Learning rate", {"lr": "learning rate"}),
        _chart(curves, "Annealing", {f"binary/{name}": name for name in ("temperature", "t", "power")}, log=True),
        _chart(curves, "Gradient over cross-entropy's", _with_prefix(curves, "gradient/"), log=True),
        _chart(curves, "Seconds an epoch", {"s_per_epoch": "seconds"}),
    ]
    drawn = [chart for chart in charts if chart is not None]
    every = tag("details", tag("summary", "Every epoch as a table"), tag("div", _all_epochs(curves), class_="inside"))
    return join(tag("div", *drawn, class_="charts"), every)


def predictions(run: RunContent) -> Html | None:
    """The first images, and the worst mistakes."""
    parts: list[Html] = []
    if run.examples:
        parts += [tag("h3", "The first test images"), _tiles(run.examples)]
    if run.mistakes:
        parts += [tag("h3", "Mistakes that the network is surest of"), _tiles(run.mistakes)]
    return join(*parts) if parts else None


def classes(run: RunContent) -> Html | None:
    """The confusion matrix, and the accuracy of each class."""
    if run.confusion is None:
        return None
    picture = _matrix(run.confusion, rows="true class", columns="predicted class", counts=True)
    confused = _most_confused(run.confusion)
    right = [table(_per_class(run.confusion), caption="Accuracy of each class, %, the worst first")]
    right += [tag("h3", "Most frequent confusions"), table(confused)] if confused.rows else []
    return tag("div", picture, tag("div", *right), class_="two")


def network(run: RunContent) -> Html | None:
    """Layers and costs of the network."""
    if run.profile is None:
        return None
    parts = [table(_wide(run.profile))]
    if run.layers is not None:
        inside = tag("div", table(run.layers), class_="inside")
        parts.append(tag("details", tag("summary", f"By layer ({len(run.layers.rows)})"), inside))
    return join(*parts)


def signs(run: RunContent) -> Html | None:
    """Rate of sign flips, and distribution of the signs."""
    chart = _chart(
        run.curves, "Signs that flipped in an epoch", {"binary/flip_rate": "all layers"}, percent=True, log=True
    )
    parts = [tag("div", chart, class_="charts")] if chart is not None else []
    parts += [table(run.signs, caption="Weights of the binary layers")] if run.signs is not None else []
    return join(*parts) if parts else None


def bank(run: RunContent) -> Html | None:
    """The soft labels."""
    if run.bank is None:
        return None
    text = (
        "One soft label a class: the mean logits of the training images that were predicted correctly in the last "
        "epoch, as probabilities at temperature 1, in percent. Off the diagonal: which classes the network takes to be "
        "alike."
    )
    return join(tag("p", text, class_="muted"), _matrix(run.bank, rows="class", columns="soft label", counts=False))


def packed(run: RunContent) -> Html | None:
    """The exported file."""
    parts = [table(_wide(run.packed))] if run.packed is not None else []
    parts += [table(run.contest, caption="As `bnn benchmark` measured it")] if run.contest is not None else []
    return join(*parts) if parts else None


def configuration(run: RunContent) -> Html | None:
    """Overrides, and the whole configuration."""
    parts: list[Html] = []
    if run.overrides:
        parts.append(tag("div", tag("pre", "bnn train " + " ".join(run.overrides)), class_="scroll", tabindex="0"))
    if run.config:
        whole = tag("div", tag("pre", run.config), class_="scroll", tabindex="0")
        parts.append(tag("details", tag("summary", "The whole configuration"), tag("div", whole, class_="inside")))
    return join(*parts) if parts else None


def _of_splits(name: str) -> dict[str, str]:
    return {f"{split}/{name}": split for split in _SPLITS}


def _with_prefix(curves: Curves, prefix: str) -> dict[str, str]:
    return {name: name.removeprefix(prefix) for name in sorted(curves) if name.startswith(prefix)}


def _chart(
    curves: Curves, title: str, names: Mapping[str, str], *, percent: bool = False, log: bool = False
) -> Html | None:
    factor = 100.0 if percent else 1.0
    lines = {}
    for name, label in names.items():
        pairs = zip(curves.get("epoch", []), curves.get(name, []), strict=False)
        points = [(epoch + 1, factor * value) for epoch, value in pairs if math.isfinite(value)]
        if points:
            lines[label] = points
    return line_chart(title, lines, log=log, unit=" %" if percent else "") if lines else None


def _all_epochs(curves: Curves) -> Html:
    names = [name for name in curves if name != "epoch"]
    rows: list[list[Cell]] = [
        [int(epoch) + 1, *("" if math.isnan(curves[name][i]) else float(curves[name][i]) for name in names)]
        for i, epoch in enumerate(curves["epoch"])
    ]
    return table(Table(["epoch", *names], rows))


def _tiles(examples: Sequence[Example]) -> Html:
    return tag("div", *map(example, examples), class_="tiles")


def _matrix(matrix: Matrix, *, rows: str, columns: str, counts: bool) -> Html:
    if len(matrix.names) > _MOST_SQUARES:
        return matrix_picture(matrix, rows=rows, columns=columns)
    return heat_map(matrix, rows=rows, columns=columns, counts=counts)


def _per_class(confusion: Matrix) -> Table:
    values = confusion.values
    rows: list[tuple[float, list[Cell]]] = []
    for index, name in enumerate(confusion.names):
        images, taken = float(values[index].sum()), float(values[:, index].sum())
        recall = float(values[index, index]) / images if images else 0.0
        precision = 100 * float(values[index, index]) / taken if taken else 0.0
        rows.append((recall, [name, bar(recall), round(precision, 1), int(images)]))
    return Table(["class", "recognised", "precision", "images"], [row for _, row in sorted(rows, key=lambda r: r[0])])


def _most_confused(confusion: Matrix, most: int = 8) -> Table:
    names, values = confusion.names, confusion.values
    pairs = [(int(values[i, j]), i, j) for i in range(len(names)) for j in range(len(names)) if i != j and values[i, j]]
    worst = sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))[:most]
    return Table(["true", "taken for", "images"], [[names[i], names[j], count] for count, i, j in worst])


def _wide(content: Table) -> Table:
    """The last column is prose, which may break into lines."""
    rows = [[*row[:-1], tag("span", str(row[-1]), class_="muted")] for row in content.rows]
    return Table(content.header, rows)
