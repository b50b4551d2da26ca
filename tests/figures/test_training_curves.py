"""The numbers on the figure of a training are those of its runs."""

import math
import statistics

import pytest

pytest.importorskip("matplotlib", reason="needs the extra `visualize`")

from bnn_lightning.figures.training_curves import plot_training_curves, summarize, training_table

ACC = [[0.5, 0.7, 0.8], [0.4, 0.8, 0.9], [0.6, 0.6]]


def run(acc: list[float], **more: list[float]) -> dict[str, list[float]]:
    number = len(acc)
    return {
        "epoch": [float(epoch) for epoch in range(number)],
        "train/loss": [1 / (1 + epoch) for epoch in range(number)],
        "train/acc": [value + 0.05 for value in acc],
        "test/acc": acc,
        **more,
    }


def test_mean_and_deviation_over_runs_that_are_there() -> None:
    band = summarize([run(acc) for acc in ACC], "test/acc")
    assert band.epochs == [1, 2, 3]
    assert band.runs == [3, 3, 2]
    for index, mean in enumerate(band.mean):
        seen = [acc[index] for acc in ACC if len(acc) > index]
        assert mean == pytest.approx(sum(seen) / len(seen))
        assert band.deviation[index] == pytest.approx(statistics.stdev(seen))


def test_epochs_that_logged_nothing_are_left_out() -> None:
    band = summarize([run([0.1, 0.2, 0.3]) | {"val/acc": [math.nan, 0.5, math.nan]}, run([0.1])], "val/acc")
    assert (band.epochs, band.mean, band.deviation, band.runs) == ([2], [0.5], [0.0], [1])


def test_one_run() -> None:
    figure = plot_training_curves(
        {"mine": [run(ACC[0], lr=[0.1, 0.01, 0.001], **{"gradient/feature": [0.5, 0.1, 0.0]})]}
    )
    loss, top1, lr, gradient = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        *("Loss", "Top-1 accuracy, %", "Learning rate", "Gradient norm of a term over cross-entropy's")
    ]
    assert [list(line.get_ydata()) for line in top1.get_lines()] == [
        pytest.approx([55.0, 75.0, 85.0]),
        pytest.approx([50.0, 70.0, 80.0]),
    ]
    assert list(loss.get_lines()[0].get_xdata()) == [1, 2, 3]
    assert [text.get_text() for text in top1.get_legend().get_texts()] == ["train", "test"]
    assert [text.get_text() for text in gradient.get_legend().get_texts()] == ["feature"]
    assert lr.get_legend() is None
    assert not top1.collections  # a single run has no band


def test_groups_have_a_color_and_a_band_each() -> None:
    figure = plot_training_curves({"skd": [run(acc) for acc in ACC], "none": [run(ACC[2])]})
    top1 = figure.axes[1]
    lines = {line.get_label(): line for line in top1.get_lines()}
    assert set(lines) == {"skd: train", "skd: test", "none: train", "none: test"}
    assert lines["skd: train"].get_color() == lines["skd: test"].get_color() != lines["none: test"].get_color()
    assert lines["skd: train"].get_linestyle() != lines["skd: test"].get_linestyle()
    assert len(top1.collections) == 2
    (box,) = (collection.get_paths()[0].get_extents() for collection in top1.collections[1:])
    seen = [100 * acc[0] for acc in ACC]
    assert box.y0 == pytest.approx(min(100 * (m - s) for m, s in moments()))
    assert statistics.fmean(seen) == pytest.approx(lines["skd: test"].get_ydata()[0])
    (names,) = figure.legends
    assert [text.get_text() for text in names.get_texts()] == ["skd, mean ± std. dev. of 3 runs", "none"]


def moments() -> list[tuple[float, float]]:
    columns = [[acc[i] for acc in ACC if len(acc) > i] for i in range(3)]
    return [(statistics.fmean(seen), statistics.stdev(seen)) for seen in columns]


def test_numbers_that_span_decades_are_on_a_logarithmic_axis() -> None:
    flips = {"binary/flip_rate": [0.5, 0.01, 0.0]}
    assert plot_training_curves({"a": [run(ACC[0], **flips)]}).axes[-1].get_yscale() == "log"
    assert (
        plot_training_curves({"a": [run(ACC[0], **{"binary/flip_rate": [0.5, 0.4, 0.3]})]}).axes[-1].get_yscale()
        == "linear"
    )


def test_the_table_holds_what_is_drawn() -> None:
    groups = {"skd": [run(acc) for acc in ACC], "none": [run(ACC[2])]}
    header, table = training_table(groups)
    rows = [dict(zip(header, row, strict=True)) for row in table]
    (row,) = (r for r in rows if (r["group"], r["metric"], r["epoch"]) == ("skd", "test/acc", 3))
    assert row["mean"] == pytest.approx(0.85)
    assert row["runs"] == 2
    assert {r["metric"] for r in rows} == {"train/loss", "train/acc", "test/acc"}
    assert len(rows) == 3 * (3 + 2)


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(ValueError, match="no curve to draw: mine"):
        plot_training_curves({"mine": [{"epoch": [0.0], "seconds": [1.0]}]})
