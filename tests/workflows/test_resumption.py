"""Resumption: schedulers whose settings are in their states, runs that stopped early, and jobs of launchers."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bnn_lightning.callbacks import EarlyStopping
from bnn_lightning.workflows.checkpoint import CONFIG_KEY
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.resumption import Resumption, check
from bnn_lightning.workflows.run_folder import holds_other_run, note_job, requeued

OURS, TORCHS, OWN = "bnn_lightning.optim.warmup_cosine", "torch.optim.lr_scheduler.StepLR", "mysched.Step"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder that holds a run, in a process without a launcher."""
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_RESTART_COUNT", "SLURM_PROCID", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name in ("RUN_ID", "RESTART_COUNT", "ERROR_FILE"):
        monkeypatch.delenv(f"TORCHELASTIC_{name}", raising=False)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    return tmp_path


def start_of(folder: Path, task: nn.Module, lr_scheduler: dict[str, Any], **more: Any) -> Resumption:
    checkpoint = {"state_dict": task.state_dict(), "global_step": 4, CONFIG_KEY: {"lr_scheduler": lr_scheduler}, **more}
    return Resumption(folder / "checkpoints" / "last.ckpt", checkpoint, in_place=True)


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({"_target_": TORCHS, "step_size": 1}, {"_target_": TORCHS, "step_size": 3}, "lr_scheduler.step_size 1 -> 3"),
        ({"_target_": OURS}, {"_target_": TORCHS, "step_size": 3}, f"_target_ {OURS} -> {TORCHS}"),
        ({"_target_": TORCHS, "step_size": 1}, {"_target_": OURS}, f"_target_ {TORCHS} -> {OURS}"),
        ({"_target_": OWN, "step_size": 1}, {"_target_": OWN, "step_size": 3}, "lr_scheduler.step_size 1 -> 3"),
        ({"_target_": OURS}, {"_target_": OWN}, f"_target_ {OURS} -> {OWN}"),
    ],
)
def test_schedulers_that_are_not_ours_keep_their_settings(
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


def test_a_requeued_run_has_ended_with_the_settings_with_which_it_stopped(tmp_path: Path) -> None:
    config = {"epochs": 12, "callbacks": {"early_stopping": {"patience": 1}}, "trainer": {"min_epochs": None}}
    task, stopping = nn.Linear(2, 2), EarlyStopping("val/acc")
    stopping.stopped_epoch = 3
    callbacks = {stopping.state_key: stopping.state_dict()}
    start = start_of(tmp_path, task, {}, **{CONFIG_KEY: config, "callbacks": callbacks})
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state_dict": task.state_dict(), "global_step": 4}, tmp_path / "checkpoints" / "final.ckpt")
    assert not start.has_ended(config)
    start = replace(start, requeued=True)
    assert start.has_ended({**deepcopy(config), "ckpt_path": "runs/before", "trust": []})
    more = {"epochs": 24, "callbacks": {"early_stopping": {"patience": 8}}, "trainer": {"min_epochs": 8}}
    for key, value in more.items():
        assert not start.has_ended({**config, key: value})


def test_patience_is_that_of_the_resumed_run() -> None:
    before, now = EarlyStopping("val/acc", patience=2), EarlyStopping("val/acc", patience=5)
    before.wait_count = 2
    now.load_state_dict(before.state_dict())
    assert (now.patience, now.wait_count) == (5, 2)


def test_a_restarted_job_knows_its_own_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ID", "77"), ("NAME", "train")):
        monkeypatch.setenv(f"SLURM_JOB_{name}", value)
    note_job(folder)
    assert not requeued(folder)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert requeued(folder)
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    assert not requeued(folder)
    assert holds_other_run(folder)
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert not holds_other_run(folder)  # the files may be those of the first rank of this run


@pytest.mark.parametrize("run", [{}, {"TORCHELASTIC_RUN_ID": "none"}])
def test_a_restarted_process_without_a_job_has_no_runs(
    run: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**run, "TORCHELASTIC_RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert not requeued(folder)
    note_job(folder)
    assert not requeued(folder)
    assert holds_other_run(folder)


def test_a_torchrun_without_an_id_knows_its_own_runs_on_one_node(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def restart(logs: str, attempt: int, nodes: int = 1) -> bool:
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", f"/logs/torchelastic_a/{logs}/attempt_{attempt}/0/error.json")
        monkeypatch.setenv("GROUP_WORLD_SIZE", str(nodes))
        return requeued(folder)

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert not restart("none_x1", 0)
    note_job(folder)
    assert restart("none_x1", 1)
    assert restart("none_x1", 2)
    assert not restart("none_x2", 1)
    assert not restart("none_x1", 1, nodes=2)  # whose logs have other names on each node


def test_a_job_is_noted_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    note_job(folder)
    before = (folder / ".job").stat()
    note_job(folder)
    assert (folder / ".job").stat() == before
    assert sorted(path.name for path in folder.iterdir()) == [".job", "checkpoints"]
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    note_job(folder)
    assert (folder / ".job").read_text() == "slurm-78"
