"""Resumption: schedulers whose settings are in their states, runs that stopped early, and jobs of launchers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bnn_lightning.callbacks import EarlyStopping
from bnn_lightning.workflows.checkpoint import CONFIG_KEY
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.resumption import Resumption, check
from bnn_lightning.workflows.run_folder import note_job, requeued

OURS, TORCHS = "bnn_lightning.optim.warmup_cosine", "torch.optim.lr_scheduler.StepLR"


def start_of(folder: Path, task: nn.Module, lr_scheduler: dict[str, Any], **more: Any) -> Resumption:
    checkpoint = {"state_dict": task.state_dict(), "global_step": 4, CONFIG_KEY: {"lr_scheduler": lr_scheduler}, **more}
    return Resumption(folder / "checkpoints" / "last.ckpt", checkpoint, in_place=True)


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({"_target_": TORCHS, "step_size": 1}, {"_target_": TORCHS, "step_size": 3}, "lr_scheduler.step_size 1 -> 3"),
        ({"_target_": OURS}, {"_target_": TORCHS, "step_size": 3}, f"_target_ {OURS} -> {TORCHS}"),
        ({"_target_": TORCHS, "step_size": 1}, {"_target_": OURS}, f"_target_ {TORCHS} -> {OURS}"),
    ],
)
def test_schedulers_of_torch_keep_their_settings(
    before: dict[str, Any], now: dict[str, Any], message: str, tmp_path: Path
) -> None:
    task: Any = nn.Linear(2, 2)
    start = start_of(tmp_path, task, before)
    with pytest.raises(UserError, match=message):
        check(task, start, {"lr_scheduler": now})
    assert "after 4 steps." in check(task, start, {"lr_scheduler": before})


def test_ours_take_new_settings(tmp_path: Path) -> None:
    task: Any = nn.Linear(2, 2)
    start = start_of(tmp_path, task, {"_target_": OURS, "epochs": 4})
    assert "lr_scheduler.epochs 4 -> 8" in check(task, start, {"lr_scheduler": {"_target_": OURS, "epochs": 8}})


def test_a_run_that_stopped_early_is_known_by_its_final_weights(tmp_path: Path) -> None:
    task, stopping = nn.Linear(2, 2), EarlyStopping("val/acc")
    start = start_of(tmp_path, task, {}, callbacks={stopping.state_key: stopping.state_dict()})
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state_dict": task.state_dict(), "global_step": 4}, tmp_path / "checkpoints" / "final.ckpt")
    assert not start.stopped_early
    stopping.stopped_epoch = 3
    start = start_of(tmp_path, task, {}, callbacks={stopping.state_key: stopping.state_dict()})
    assert start.stopped_early
    (tmp_path / "checkpoints" / "final.ckpt").unlink()
    assert not start.stopped_early


def test_patience_is_that_of_the_resumed_run() -> None:
    before, now = EarlyStopping("val/acc", patience=2), EarlyStopping("val/acc", patience=5)
    before.wait_count = 2
    now.load_state_dict(before.state_dict())
    assert (now.patience, now.wait_count) == (5, 2)


def test_a_restarted_job_knows_its_own_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    for name, value in (("ID", "77"), ("NAME", "train")):
        monkeypatch.setenv(f"SLURM_JOB_{name}", value)
    note_job(tmp_path)
    assert not requeued(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert requeued(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    assert not requeued(tmp_path)
