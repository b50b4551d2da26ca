"""Files of a run and their times; that it resumes to the bit is in tests/tasks/test_resume.py."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from bnn_lightning.binarizers import TemperatureSign
from bnn_lightning.callbacks import BestCheckpoint, FinalCheckpoint, LastCheckpoint
from bnn_lightning.layers import BinaryLinear
from bnn_lightning.tasks import ClassificationTask

sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
from small_run import assert_equal, small_run


def small_task(backbone: nn.Module) -> ClassificationTask:
    return ClassificationTask(backbone, num_classes=2, optimizer=partial(torch.optim.SGD, lr=0.1))


class Saves(Callback):
    """Notes the optimizer steps at which something is saved."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_save_checkpoint(self, trainer: Trainer, *_: Any) -> None:
        self.steps.append(trainer.global_step)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, [5, 10, 15]),
        ({"every_n_epochs": 2}, [10, 15]),
        ({"every_n_steps": 2}, [2, 4, 5, 6, 8, 10, 12, 14, 15]),
        ({"every_n_steps": 3, "every_n_epochs": 3}, [3, 6, 9, 12, 15]),
        ({"every_n_steps": 5, "every_n_epochs": 9}, [5, 10, 15]),
        ({"every_n_minutes": 1e-9}, list(range(1, 16))),
    ],
)
def test_when(tmp_path: Path, options: dict[str, Any], steps: list[int]) -> None:
    saves, last = Saves(), LastCheckpoint(tmp_path, **options)
    small_run(tmp_path, standard=False, callbacks=[saves, last], limit_val_batches=1)
    assert saves.steps == steps
    assert last.path == str(tmp_path / "last.ckpt")
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["last.ckpt"]
    assert torch.load(last.path, weights_only=True)["global_step"] == 15


@pytest.mark.parametrize(("every_n_steps", "steps"), [(1, [1, 2, 4, 5]), (3, [4, 5])])
def test_not_before_a_validation_within_the_epoch(tmp_path: Path, every_n_steps: int, steps: list[int]) -> None:
    """Lightning would leave that validation out on resuming: what is due before it waits for the next step."""
    saves = Saves()
    callbacks = [saves, LastCheckpoint(tmp_path, every_n_steps=every_n_steps)]
    small_run(tmp_path, standard=False, epochs=1, callbacks=callbacks, val_check_interval=3)
    assert saves.steps == steps


def test_nothing_in_a_fast_dev_run(tmp_path: Path) -> None:
    small_run(tmp_path, standard=False, callbacks=[LastCheckpoint(tmp_path), FinalCheckpoint(tmp_path)], fast_dev_run=1)
    assert not list(tmp_path.glob("**/*.ckpt"))


def test_lightnings_folder_by_default(tmp_path: Path) -> None:
    last, final = LastCheckpoint(), FinalCheckpoint()
    small_run(tmp_path, standard=False, epochs=1, callbacks=[last, final])
    assert Path(last.path).is_file()
    assert Path(final.path).parent == Path(last.path).parent
    assert "optimizer_states" not in torch.load(final.path, weights_only=True)


class Batches(Callback):
    """Notes epoch and number of every batch, and stops the training as `max_time` does."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.seen: list[tuple[int, int]] = []
        self.images: list[torch.Tensor] = []
        self.stop_at = stop_at

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append((trainer.current_epoch, batch_idx))
        self.images.append(batch[0].clone())
        trainer.should_stop = trainer.should_stop or len(self.seen) == self.stop_at


@pytest.mark.parametrize(
    ("limit", "options", "seen"),
    [
        ({"max_steps": 3}, {}, 3),
        ({"max_steps": 5}, {}, 5),
        ({"max_steps": 3}, {"val_check_interval": 3}, 3),
        ({"max_steps": 2}, {"accumulate_grad_batches": 2}, 4),
        ({"stop_at": 3}, {}, 3),
        ({"stop_at": 3}, {"accumulate_grad_batches": 2}, 4),
        ({"stop_at": 10}, {"accumulate_grad_batches": 2}, 10),
    ],
)
def test_a_limit_within_an_epoch(tmp_path: Path, limit: dict[str, int], options: dict[str, Any], seen: int) -> None:
    """Resumed with a larger one, the training goes on with the next batch (5 of 256 images an epoch, 10 of 128)."""
    whole, first, second = Batches(), Batches(limit.get("stop_at")), Batches()
    steps = {name: value for name, value in limit.items() if name == "max_steps"}
    small_run(tmp_path / "whole", epochs=2, callbacks=[whole], **options)
    small_run(tmp_path / "first", epochs=2, callbacks=[first], every_n_steps=None, **steps, **options)
    last = tmp_path / "first" / "last.ckpt"
    small_run(tmp_path / "second", epochs=2, callbacks=[second], ckpt_path=last, **options)
    assert len(first.seen) == seen
    batches = 5 * options.get("accumulate_grad_batches", 1)
    assert first.seen + second.seen == whole.seen == [(epoch, batch) for epoch in range(2) for batch in range(batches)]
    for images, wanted in zip(first.images + second.images, whole.images, strict=True):
        assert torch.equal(images, wanted)
    ends = [torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "second")]
    assert_equal(ends[0]["state_dict"], ends[1]["state_dict"])


def test_max_time(tmp_path: Path) -> None:
    """The step in which the time is over is saved; its epoch goes on."""

    class Slow(Batches):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 2:
                time.sleep(2)

    first, second = Slow(), Batches()
    small_run(tmp_path, epochs=1, callbacks=[first], max_time={"seconds": 2})
    small_run(tmp_path, epochs=1, callbacks=[second], ckpt_path=tmp_path / "last.ckpt", max_time={"hours": 1})
    assert first.seen + second.seen == [(0, batch) for batch in range(5)]
    assert len(first.seen) <= 3


def test_nothing_is_left_to_do_at_the_same_limit(tmp_path: Path) -> None:
    small_run(tmp_path, epochs=2, max_steps=3)
    again = Batches()
    small_run(tmp_path, epochs=2, max_steps=3, ckpt_path=tmp_path / "last.ckpt", callbacks=[again])
    assert not again.seen
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3


def test_best_of_averaged_weights(tmp_path: Path) -> None:
    """Lightning's best checkpoint holds the averaged weights that were scored, if it does not hold weights alone."""
    best = ModelCheckpoint(tmp_path, filename="best", monitor="test/acc", mode="max")
    trainer = small_run(tmp_path, ema=True, callbacks=[best])
    task = trainer.lightning_module
    task.load_state_dict(torch.load(best.best_model_path, weights_only=True)["state_dict"])
    scored = trainer.test(task, datamodule=trainer.datamodule, verbose=False)[0]  # type: ignore[attr-defined]
    assert scored["test/acc"] == pytest.approx(float(best.best_model_score))  # type: ignore[arg-type]


def test_best_is_chosen_among_binary_epochs(tmp_path: Path) -> None:
    """Scores fall from epoch to epoch: Lightning's choice would be the first."""

    class Falling(Callback):
        def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
            pl_module.log("score", 1.0 - trainer.current_epoch / 10)

    torch.manual_seed(0)
    hidden = BinaryLinear(4, 4, weight_binarizer=TemperatureSign(binary_from=0.5))
    task = small_task(nn.Sequential(nn.Flatten(), hidden, nn.Linear(4, 2)))
    kept = {}
    for kind in (ModelCheckpoint, BestCheckpoint):
        folder = tmp_path / kind.__name__
        best = kind(monitor="score", mode="max", dirpath=folder, filename="best")
        callbacks = [Falling(), best]
        trainer = Trainer(
            max_epochs=4, accelerator="cpu", callbacks=callbacks, logger=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip
        images = torch.utils.data.TensorDataset(torch.rand(8, 1, 2, 2), torch.arange(8) % 2)
        loader = torch.utils.data.DataLoader(images, batch_size=4)
        trainer.fit(task, loader, loader)
        kept[kind] = torch.load(best.best_model_path, weights_only=True)["epoch"]
    assert kept == {ModelCheckpoint: 0, BestCheckpoint: 2}


@pytest.mark.parametrize("name", ["every_n_epochs", "every_n_steps", "every_n_minutes"])
def test_errors(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be positive, got 0"):
        LastCheckpoint(**{name: 0})


def slurm_job(folder: Path, monkeypatch: pytest.MonkeyPatch, *, restarts: int = 0) -> Path:
    """Let this process be the only task of a SLURM job; return what a stand-in for `scontrol` writes down."""
    variables = {"JOB_ID": "77", "JOB_NAME": "train", "RESTART_COUNT": str(restarts), "NODELIST": "localhost"}
    variables |= {"NTASKS": "1", "NTASKS_PER_NODE": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    program, called = folder / "bin" / "scontrol", folder / "scontrol.txt"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {called}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return called


@pytest.mark.parametrize(
    ("signum", "requeued"), [(signal.SIGUSR1, ["requeue 77"]), (signal.SIGTERM, [])], ids=["limit", "preempted"]
)
def test_a_slurm_job_ends_between_two_steps(
    signum: int, requeued: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = slurm_job(tmp_path, monkeypatch)

    class Signal(Callback):
        def on_before_backward(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 7:
                os.kill(os.getpid(), signum)

    before = signal.getsignal(signum)
    callbacks = [Signal(), LastCheckpoint(tmp_path)]
    try:
        with pytest.raises(SystemExit):
            small_run(tmp_path, standard=False, callbacks=callbacks, default_root_dir=tmp_path)
    finally:
        signal.signal(signum, before)
    assert [path.name for path in tmp_path.glob("**/*.ckpt")] == ["last.ckpt"]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 8
    assert (called.read_text().splitlines() if called.exists() else []) == requeued


@pytest.mark.parametrize(
    ("signum", "requeued"), [(signal.SIGUSR1, ["requeue 77"]), (signal.SIGINT, [])], ids=["limit", "ctrl-c"]
)
@pytest.mark.parametrize("hook", ["on_validation_start", "on_train_end"])
def test_a_signal_after_the_last_step_stops_before_the_test(
    hook: str, signum: int, requeued: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = slurm_job(tmp_path, monkeypatch)

    def kill(trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 5:
            os.kill(os.getpid(), signum)

    sender, before = Callback(), signal.getsignal(signum)
    setattr(sender, hook, kill)
    callbacks = [sender, LastCheckpoint(tmp_path), FinalCheckpoint(tmp_path)]
    options: dict[str, Any] = {"epochs": 1, "limit_val_batches": 1, "num_sanity_val_steps": 0}
    try:
        with pytest.raises(SystemExit):
            small_run(tmp_path, standard=False, callbacks=callbacks, default_root_dir=tmp_path, **options)
    finally:
        signal.signal(signum, before)
    assert [path.name for path in tmp_path.glob("**/*.ckpt")] == ["last.ckpt"]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 5
    assert (called.read_text().splitlines() if called.exists() else []) == requeued


def test_the_signal_of_slurm_in_the_test_requeues_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = slurm_job(tmp_path, monkeypatch)

    class Signal(Callback):
        def on_test_start(self, *_: Any) -> None:
            os.kill(os.getpid(), signal.SIGUSR1)

    callbacks = [Signal(), LastCheckpoint(tmp_path)]
    trainer = small_run(tmp_path, standard=False, epochs=1, callbacks=callbacks, default_root_dir=tmp_path)
    trained = {name: tensor.clone() for name, tensor in trainer.lightning_module.state_dict().items()}
    (scores,) = trainer.test(trainer.lightning_module, datamodule=trainer.datamodule, verbose=False)
    assert scores["test/acc"] > 0
    assert_equal(trained, dict(trainer.lightning_module.state_dict()))
    assert called.read_text().splitlines() == ["requeue 77"]
