"""Binarizers and distillers are told how far the training is."""

import re
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader

from bnn_lightning.binarizers import EDE, AnnealedBinarizer, ReCUWeights, ReSTE, SignEDE, TemperatureSign
from bnn_lightning.data import DigitsDataModule
from bnn_lightning.tasks import ClassificationTask
from bnn_lightning.tasks.progress import TrainingProgress
from bnn_lightning.tasks.scheduler import jump_of_schedules
from bnn_lightning.tasks.steps import steps_per_epoch
from bnn_lightning.utils.curve_panels import PANELS

SGD = partial(torch.optim.SGD, lr=0.1)


def fake_trainer(**options: Any) -> Any:
    defaults = {"max_epochs": 700, "current_epoch": 0, "accumulate_grad_batches": 1, "num_training_batches": 10}
    defaults |= {"lr_scheduler_configs": []}
    return SimpleNamespace(**defaults | options)


def task_of(network: nn.Module, **options: Any) -> ClassificationTask:
    return ClassificationTask(network, num_classes=2, optimizer=SGD, **options)


def begin_epoch(task: ClassificationTask, trainer: Any) -> None:
    task._trainer = trainer
    task.on_train_epoch_start()


@pytest.mark.parametrize(("epoch", "t"), [(0, 0.001), (175, 0.01), (350, 0.1), (525, 1.0), (699, 9.869286)])
def test_published_sharpness(epoch: int, t: float) -> None:
    """Vector A8 of SKD-BNN, E = 700."""
    network = nn.Sequential(SignEDE(), nn.Linear(2, 2), SignEDE())
    begin_epoch(task_of(network, progress_epochs=700), fake_trainer(current_epoch=epoch))
    for module in network.modules():
        if isinstance(module, EDE):
            assert float(module.t) == pytest.approx(t, rel=1e-6)


def test_steps_count_optimizer_steps() -> None:
    progress = TrainingProgress(4, interval="step")
    for step in (0, 5, 10, 19):  # 4 epochs of ceil(10 / 2) steps
        trainer = fake_trainer(current_epoch=step // 5, accumulate_grad_batches=2)
        assert progress.now(trainer, 2 * (step % 5)) == progress.now(trainer, 2 * (step % 5) + 1) == step / 20


def test_another_batch_size_is_at_the_same_part_of_the_training() -> None:
    """Two epochs of 10 steps, and then some of 40."""
    progress = TrainingProgress(4, interval="step")
    trainer = fake_trainer(current_epoch=2, global_step=20, num_training_batches=40)
    assert progress.now(trainer, 20) == 2.5 / 4
    trainer.lr_scheduler_configs = [SimpleNamespace(interval="epoch")]
    assert jump_of_schedules(trainer) is None
    trainer.lr_scheduler_configs = [SimpleNamespace(interval="step")]
    warning = str(jump_of_schedules(trainer))
    assert {"2", "20", "40", "0.5"} <= set(re.findall(r"\d+(?:\.\d+)?", warning))
    # A resumed scheduler goes on counting steps: another interval is for a new run.
    assert re.search(r"new run [^.]*init_from=\S+ lr_scheduler\.interval=epoch", warning)
    trainer.num_training_batches = 10
    assert jump_of_schedules(trainer) is None


def test_past_the_end() -> None:
    network = nn.Sequential(SignEDE())
    with pytest.warns(UserWarning, match="annealing of 4 epochs is over"):
        begin_epoch(task_of(network, progress_epochs=4), fake_trainer(current_epoch=9))
    assert float(network[0].t) == 10.0


def test_a_finished_run_is_left_alone() -> None:
    assert TrainingProgress(4).now(fake_trainer(current_epoch=4, max_epochs=4)) is None


def test_the_length_is_the_trainers_where_none_is_given() -> None:
    assert TrainingProgress().now(fake_trainer(current_epoch=350)) == 0.5
    with pytest.raises(ValueError, match="`progress_epochs` must be given"):
        TrainingProgress().now(fake_trainer(max_epochs=-1))


def test_errors() -> None:
    with pytest.raises(ValueError, match="`progress_epochs` must be positive, got 0"):
        task_of(nn.Linear(2, 2), progress_epochs=0)
    with pytest.raises(ValueError, match="`progress_interval` must be one of"):
        task_of(nn.Linear(2, 2), progress_interval="batch")


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_what_changes_is_logged(interval: str) -> None:
    binarizers = [SignEDE(), ReSTE(), TemperatureSign(), SignEDE()]
    network = nn.Sequential(nn.Flatten(), binarizers[0], *binarizers[1:], nn.Linear(64, 10))
    task = ClassificationTask(network, num_classes=10, optimizer=SGD, progress_interval=interval)  # type: ignore[arg-type]
    silent: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        max_epochs=2,
        limit_train_batches=2,
        limit_val_batches=0,
        accelerator="cpu",
        enable_checkpointing=False,
        use_distributed_sampler=False,
        **silent,
    )
    trainer.fit(task, datamodule=DigitsDataModule(batch_size=16, image_size=8))
    last = 1 / 2 if interval == "epoch" else 3 / 4
    logged = {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith("binary/")}
    assert set(logged) == {"binary/t", "binary/temperature", "binary/power"}
    assert logged["binary/t"] == pytest.approx(10 ** (-3 + 4 * last))
    assert logged["binary/power"] == pytest.approx(1 + 2 * last)


@pytest.mark.parametrize("binarizer", [SignEDE(), ReSTE(), TemperatureSign(), ReCUWeights(8)])
def test_what_changes_has_a_curve(binarizer: AnnealedBinarizer) -> None:
    drawn = {name for panel in PANELS for name in panel.names}
    assert {f"binary/{name}" for name, _ in binarizer.named_buffers(recurse=False)} <= drawn


def test_nothing_is_told_where_nothing_changes() -> None:
    task = task_of(nn.Sequential(nn.ReLU()))
    assert not task.follows_progress
    begin_epoch(task, fake_trainer(max_epochs=-1))


def test_steps_of_a_loader_that_lightning_shards() -> None:
    """A plain loader is whole until the training starts: per-step schedules would be too long by the ranks."""
    trainer = Trainer(accelerator="cpu", devices=4, strategy="ddp", logger=False, enable_checkpointing=False)
    trainer.fit_loop._data_source.instance = DataLoader(range(101), batch_size=5)  # type: ignore[arg-type]
    assert steps_per_epoch(trainer) == 6


def test_steps_need_a_length() -> None:
    trainer = fake_trainer(num_training_batches=float("inf"), global_step=0)
    with pytest.raises(ValueError, match="progress_interval"):
        TrainingProgress(interval="step").now(trainer)
