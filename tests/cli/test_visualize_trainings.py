"""`bnn visualize training_curves`, `comparison`, `binarization`: lines of runs, and the numbers that are written."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnn_lightning.utils.curves import read_curves, read_last
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.figure_kinds.comparison import own_entry
from bnn_lightning.workflows.figure_kinds.training_curves import group_labels, runs_of
from bnn_lightning.workflows.profiling import profiles_of
from bnn_lightning.workflows.sections import data_section

Bnn = Callable[..., Any]


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, *overrides: str, log: bool = True) -> Path:
        folder = tmp_path / name
        (folder / ".hydra").mkdir(parents=True)
        lines = "".join(f"- {word}\n" for word in overrides) or "[]\n"
        (folder / ".hydra" / "overrides.yaml").write_text(lines)
        if log:
            (folder / "csv" / "version_0").mkdir(parents=True)
            (folder / "csv" / "version_0" / "metrics.csv").write_text("epoch,train/loss\n0,1.0\n")
        return folder

    return make


def test_runs_that_differ_by_their_seed_are_one_line(make_run: Callable[..., Path]) -> None:
    runs = [make_run(f"mlp_{seed}", "model=mlp", f"seed={seed}", "hydra.run.dir=x") for seed in (1, 2)]
    other = make_run("mlp_skd", "model=mlp", "distill=skd", "seed=1")
    assert group_labels([*runs, other]) == ["mlp", "mlp", "mlp_skd"]


def test_jobs_of_a_sweep_are_called_by_what_they_change(make_run: Callable[..., Path], tmp_path: Path) -> None:
    for job in range(12):
        make_run(f"sweep/x/{job}", "model=mlp", f"epochs={job // 2}", f"seed={job % 2}")
    make_run("sweep/x/.submitit", log=False)
    runs = runs_of(tmp_path / "sweep" / "x")
    assert [run.name for run in runs] == [str(job) for job in range(12)]
    assert group_labels(runs)[:4] == ["epochs=0", "epochs=0", "epochs=1", "epochs=1"]


def test_files_are_called_by_their_names_without_a_number(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a_1.csv", "a_2.csv", "b.csv")]
    for file in files:
        file.write_text("epoch,train/loss\n0,1.0\n")
    assert group_labels(files) == ["a", "a", "b"]


def test_runs_of_one_name_and_other_options_are_two_lines(make_run: Callable[..., Path]) -> None:
    runs = [make_run("x/mlp", "model=mlp", "epochs=1"), make_run("y/mlp", "model=mlp", "epochs=2")]
    assert group_labels(runs) == ["epochs=1 model=mlp", "epochs=2 model=mlp"]


def test_training_curves_of_a_run(trained: Any, bnn: Bnn, tmp_path: Path) -> None:
    done = bnn(
        "visualize", f"training_curves=[{trained.folder},{trained.folder}]", "labels=[one,two]", f"out={tmp_path}/p.svg"
    )
    assert done.code == 0, done.err
    assert (tmp_path / "p.svg").read_text().lstrip().startswith("<?xml")
    found = {(row["group"], row["metric"], row["epoch"]): float(row["mean"]) for row in rows(tmp_path / "p.csv")}
    curves = read_curves(trained.folder)
    assert found["two", "train/loss", "2"] == curves["train/loss"][1]
    assert found["one", "binary/flip_rate", "1"] == curves["binary/flip_rate"][0]


def test_comparison_with_a_run(trained: Any, tmp_path: Path) -> None:
    entry = own_entry(str(trained.folder), "mine", data="synthetic")
    assert entry.top1 == 100 * read_last(trained.folder)["test/acc"]
    # Weights of 192 x 16 and 2 x 16 x 16 are binary; the products of the first layer and of the classifier are real.
    assert entry.ops == 2 * 16 * 16 / 64 + 3 * 64 * 16 + 16 * 10
    with pytest.raises(UserError, match="was trained on synthetic, and `comparison` is mnist"):
        own_entry(str(trained.folder), "mine", data="mnist")


def test_comparison_is_written(bnn: Bnn, tmp_path: Path) -> None:
    done = bnn("visualize", "comparison=mnist", f"out={tmp_path}/c.png")
    assert done.code == 0, done.err
    found = {row["name"]: row for row in rows(tmp_path / "c.csv")}
    assert found["SKD-BNN (3-MLP)"]["note"] == "ops, size, ace counted here"
    assert float(found["SKD-BNN (3-MLP)"]["ops"]) == profiles_of(["mlp"], data_section("mnist"))["mlp"]["ops"]


def test_binarization_is_written(bnn: Bnn, tmp_path: Path) -> None:
    done = bnn("visualize", "binarization=[mlp,resnet20]", "data=cifar10", f"out={tmp_path}")
    assert done.code == 0, done.err
    found = rows(tmp_path / "binarization_cifar10.csv")
    assert [row["network"] for row in found] == ["mlp", "resnet20"]
    own = json.loads(bnn("profile", "model=resnet20", "data=cifar10", "format=json").out)["totals"]
    assert float(found[1]["degree_of_binarization"]) == own["degree_of_binarization"]


@pytest.mark.parametrize(
    "words, message",
    [
        ("training_curves=nowhere", "nowhere: there is no such folder or file"),
        ("training_curves=.", "was it trained with logger=csv?"),
        ("training_curves=RUN labels=[a,b]", "`labels` must be as many as there are runs (1), got 2"),
        ("training_curves=RUN columns=0", "`columns` must be 1 or more"),
        ("comparison=svhn", "`data` must be one of ['cifar10', 'imagenet', 'mnist'], got 'svhn'"),
        ("comparison=mnist cost=money", "`cost` must be ops, size, ace or latency, got money"),
        ("comparison=mnist cost=latency", "No entry has a `latency`"),
        ("comparison=mnist benchmarks=[x]", "`benchmarks` must be as many as `runs` (0)"),
        ("comparison=mnist runs=[RUN]", "was trained on synthetic"),
        ("binarization=resnt20", "Did you mean `resnet20`?"),
        ("binarization=mlp data=cifa10", "Did you mean `cifar10`?"),
    ],
)
def test_one_clear_message(words: str, message: str, trained: Any, bnn: Bnn) -> None:
    done = bnn("visualize", *words.replace("RUN", str(trained.folder)).split())
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


def test_latency_of_a_benchmark_is_taken(tmp_path: Path) -> None:
    from bnn_lightning.figures.comparison import published
    from bnn_lightning.workflows.figure_kinds.comparison import _latencies, _with_compact

    entries = [
        {"name": name, "threads": threads, "batch": 1, "median": seconds}
        for name, threads, seconds in (("packed", 1, 0.002), ("packed", 2, 0.001), ("mobilenet_v2_int8", 1, 0.02))
    ]
    (tmp_path / "b.json").write_text(json.dumps({"entries": entries}))
    latencies = _latencies(str(tmp_path / "b.json"))
    assert latencies == {"packed": 2.0, "mobilenet_v2_int8": 20.0}
    with_latency = [e for e in _with_compact(published("imagenet"), latencies) if e.latency is not None]
    assert [(e.name, e.latency) for e in with_latency] == [("MobileNetV2, int8", 20.0)]
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(UserError, match="is not what `bnn benchmark"):
        _latencies(str(tmp_path / "b.json"))
