"""Logs of runs become a row an epoch."""

import math
from pathlib import Path

import pytest

from bnn_lightning.utils.curves import read_curves, read_last

ROOT = Path(__file__).parents[2]


def log(folder: Path, version: int, text: str) -> None:
    file = folder / "csv" / f"version_{version}" / "metrics.csv"
    file.parent.mkdir(parents=True)
    file.write_text(text)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    log(
        tmp_path,
        0,
        "epoch,step,test/acc,train/loss,train/loss_step\n"
        "0,9,,,0.9\n"  # a step
        "0,10,0.5,,\n"  # the validation of epoch 0
        "0,10,,0.7,\n"  # its training
        "1,20,0.6,,\n1,20,,0.4,\n",
    )
    return tmp_path


def test_rows_of_an_epoch_are_joined(run: Path) -> None:
    assert read_curves(run) == {"epoch": [0, 1], "test/acc": [0.5, 0.6], "train/loss": [0.7, 0.4]}


def test_a_resumed_run_goes_on_and_its_tenth_version_is_the_last(run: Path) -> None:
    log(run, 9, "epoch,step,train/loss,lr\n1,20,0.3,0.1\n")
    log(run, 10, "epoch,step,train/loss,lr,test/acc\n1,20,0.2,,\n2,30,0.1,0.1,\n3,30,,,0.9\n")
    curves = read_curves(run)
    assert curves["train/loss"] == [0.7, 0.2, 0.1]
    assert math.isnan(curves["lr"][0])
    assert curves["lr"][1:] == [0.1, 0.1]
    assert len(curves["test/acc"]) == 3  # the test of the finished network is no epoch
    assert read_last(run) == {"test/acc": 0.9, "train/loss": 0.1, "lr": 0.1}


def test_a_line_that_was_half_written_is_left_out(run: Path) -> None:
    file = run / "csv" / "version_0" / "metrics.csv"
    file.write_text(file.read_text() + ",")
    assert len(read_curves(run)["epoch"]) == 2


def test_committed_curves_are_read_as_they_are() -> None:
    curves = read_curves(ROOT / "docs" / "curves" / "mnist_mlp_skd_cpu_1.csv")
    assert len(curves["epoch"]) == 30
    assert curves["test/acc"][-1] == 0.9895


@pytest.mark.parametrize(
    "text, message",
    [
        ("a,b\n1,2\n", "no column `epoch`"),
        ("", "no column `epoch`"),
        ("epoch,lr\n0,high\n", r"line 2: .*'high'"),
        ("epoch,lr\nlast,1\n", r"line 2: .*'last'"),
    ],
)
def test_what_is_no_log_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_curves(tmp_path / "x.csv")


def test_a_folder_without_a_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="logger=csv"):
        read_curves(tmp_path)
