"""Loggers read back from the files that they write without a network."""

import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

Bnn = Callable[..., Any]
HERE = "hydra.run.dir=runs/here"


@pytest.fixture(autouse=True)
def offline(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNN_RUNS", str(workplace / "runs"))  # MLflow remembers what it has opened, by its name
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    if "wandb" in sys.modules:  # it read the environment of an earlier test
        sys.modules["wandb"].teardown()


def wandb_records(file: Path) -> Iterator[Any]:
    """Yield what W&B's offline file holds: LevelDB's log format after seven bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # padding at the end of a block
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def wandb_runs(folder: Path | str) -> list[dict[str, Any]]:
    """Return id, name, group, configuration and losses by epoch of each offline file, the oldest first."""
    pytest.importorskip("wandb").teardown()  # its service, which the end of a process waits for, writes the rest
    found = []
    for file in sorted(Path(folder).rglob("offline-run-*/*.wandb"), key=lambda path: path.parent.name):
        run: dict[str, Any] = {"config": {}, "losses": {}}
        for record in wandb_records(file):
            if record.HasField("run"):
                run |= {"id": record.run.run_id, "name": record.run.display_name, "group": record.run.run_group}
            for update in [*record.run.config.update, *record.config.update]:
                run["config"][update.key or "/".join(update.nested_key)] = update.value_json
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            if "train/loss" in items:
                run["losses"][items["epoch"]] = items["train/loss"]
        found.append(run)
    return found


def test_wandb_is_one_run_when_it_is_resumed(bnn: Bnn, small: tuple[str, ...], workplace: Path) -> None:
    words = ("train", *small, "logger=wandb")
    assert bnn(*words, HERE).code == 0
    done = bnn(*words, "epochs=3", "ckpt_path=runs/here")
    assert done.code == 0, done.err
    first, second = wandb_runs("runs/here")
    assert first["id"] == second["id"]
    assert first["name"] == "mlp_synthetic"
    assert list(first["losses"]) + list(second["losses"]) == ["0", "1", "2"]
    assert '"width":16' in first["config"]["model"]
    assert list(Path("runs/here").glob("csv/version_0/metrics.csv"))
    assert bnn(*words, "epochs=4", "ckpt_path=runs/here", "hydra.run.dir=runs/new").code == 0
    assert wandb_runs("runs/new")[0]["id"] != first["id"]


def test_wandb_tells_the_runs_of_a_sweep_apart(bnn: Bnn, small: tuple[str, ...], workplace: Path) -> None:
    words = ("optimizer.lr=0.1,0.01", "hydra.sweep.dir=runs/my_sweep")
    assert bnn("train", "-m", *small, "epochs=1", "logger=wandb", *words).code == 0
    runs = wandb_runs("runs")
    names = {f"mlp_synthetic optimizer.lr={rate}" for rate in ("0.1", "0.01")}
    assert {run["name"] for run in runs} == names  # the folders of one second have no order
    assert {run["group"] for run in runs} == {"my_sweep"}
    assert len({run["id"] for run in runs}) == 2


def test_tensorboard_goes_on(bnn: Bnn, small: tuple[str, ...], workplace: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ("train", *small, "logger=tensorboard")
    assert bnn(*words, HERE).code == 0
    assert bnn(*words, "epochs=3", "ckpt_path=runs/here").code == 0
    (folder,) = Path("runs/here/tensorboard").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [3, 7, 11]
    assert "width: 16" in (folder / "hparams.yaml").read_text()


def test_mlflow_is_one_run_when_it_is_resumed(bnn: Bnn, small: tuple[str, ...], workplace: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    words = ("train", *small, "logger=mlflow")
    first = bnn(*words, HERE)
    assert first.code == 0, first.err
    done = bnn(*words, "epochs=3", "ckpt_path=runs/here")
    assert done.code == 0, done.err
    client = mlflow.MlflowClient(f"file:{workplace}/runs/mlruns")
    (experiment,) = [e for e in client.search_experiments() if e.name == "bnn-lightning"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "mlp_synthetic"
    assert run.data.params["model/width"] == "16"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == [3, 7, 11]
    checkpoint = torch.load("runs/here/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["callbacks"]["Tracking"] == {"mlflow": run.info.run_id}


def test_mlflow_groups_a_sweep(bnn: Bnn, small: tuple[str, ...], workplace: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    words = ("seed=1,2", "hydra.sweep.dir=runs/my_sweep")
    assert bnn("train", "-m", *small, "epochs=1", "logger=mlflow", *words).code == 0
    client = mlflow.MlflowClient(f"file:{workplace}/runs/mlruns")
    (experiment,) = [e for e in client.search_experiments() if e.name == "bnn-lightning"]
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    assert [run.info.run_name for run in runs] == ["mlp_synthetic seed=1", "mlp_synthetic seed=2"]
    assert {run.data.tags["group"] for run in runs} == {"my_sweep"}
