"""The tools that make what the documents show."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools import lint_prose, make_zoo

ROOT = Path(__file__).parents[2]
CONFIG = {"model": {"name": "mlp"}, "data": {"name": "digits"}}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "collect_curves.py", *arguments], capture_output=True, text=True
    )


def test_collect_curves_joins_the_rows_of_an_epoch(tmp_path: Path) -> None:
    logged = tmp_path / "first_run" / "csv" / "version_0" / "metrics.csv"
    logged.parent.mkdir(parents=True)
    logged.write_text(
        "epoch,step,test/acc,train/loss,train/loss_step\n"
        "0,9,,,0.9\n"  # a step
        "0,10,0.5,,\n"  # the validation of epoch 0
        "0,10,,0.7,\n"  # its training
        "1,20,0.6,,\n1,20,,0.4,\n"
        "2,20,0.6,,\n"  # the test of the finished network
    )
    result = run(tmp_path / "out", tmp_path / "first_run")
    assert result.returncode == 0, result.stderr
    with (tmp_path / "out" / "first_run.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert rows == [
        {"epoch": "0", "test/acc": "0.5", "train/loss": "0.7"},
        {"epoch": "1", "test/acc": "0.6", "train/loss": "0.4"},
    ]


def test_collect_curves_names_a_folder_without_curves(tmp_path: Path) -> None:
    result = run(tmp_path / "out", tmp_path)
    assert result.returncode == 1
    assert f"{tmp_path}: no csv/*/metrics.csv in it" in result.stderr


@pytest.mark.parametrize("teacher", ["runs/teacher", "runs/teacher/final.ckpt", "runs/teacher/checkpoints/last.ckpt"])
def test_a_recipe_begins_with_the_run_of_the_teacher(
    teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run, words in {"teacher": ["seed=1"], "student": [f"distill.teacher.ckpt={teacher}"]}.items():
        (tmp_path / run / ".hydra").mkdir(parents=True)
        (tmp_path / run / ".hydra" / "overrides.yaml").write_text(json.dumps(words))
        (tmp_path / run / "final.ckpt").touch()
    read = {tmp_path / "teacher" / "final.ckpt": {make_zoo.CONFIG_KEY: CONFIG}}
    monkeypatch.setattr(make_zoo, "read_checkpoint", read.__getitem__)
    first = "bnn train model=mlp data=digits seed=1"
    assert make_zoo.recipe(tmp_path / "teacher", CONFIG) == first
    student = "bnn train model=mlp data=digits distill.teacher.ckpt=teacher"
    given = {**CONFIG, "distill": {"teacher": {"ckpt": teacher}}}
    assert make_zoo.recipe(tmp_path / "student", given) == f"{first} hydra.run.dir=teacher && {student}"


@pytest.mark.parametrize(("comment", "faults"), [("seed of all random numbers", 0), ("of all random numbers", 1)])
def test_descriptions_of_keys_are_linted(comment: str, faults: int, tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "verb.yaml").write_text(f"# of no key\nseed: 1    # {comment}\n")
    assert lint_prose.main(tmp_path) == faults


def test_descriptions_of_arguments_are_linted(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text('"""Module.\n\nArgs:\n    seed: Of all choices.\n"""\n')
    assert lint_prose.main(tmp_path) == 1
