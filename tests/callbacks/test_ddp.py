"""Ranks that know different things do not wait for each other; a hang fails in time."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ranks import run_ranks

sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
from small_run import curves, small_run


def run_on_two(folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).parents[1] / "tasks" / "small_run.py"
    arguments = json.dumps({"folder": str(folder), "devices": 2, "strategy": "ddp", **options})
    return subprocess.run([sys.executable, str(script), arguments], capture_output=True, text=True, timeout=90)


@pytest.mark.slow
def test_shares_measured_before_a_resume_alone(tmp_path: Path) -> None:
    """Resumed at step 4 of 5, with measurements at 0 and 3: rank 0 has them from the checkpoint, rank 1 has none."""
    assert run_on_two(tmp_path / "killed", epochs=1, kill_at=4).returncode != 0
    path = tmp_path / "killed" / "last.ckpt"
    callbacks = torch.load(path, weights_only=True)["callbacks"]
    process = run_on_two(tmp_path / "resumed", epochs=1, ckpt_path=str(path))
    assert process.returncode == 0, process.stderr
    state = callbacks["GradientShare"]
    logged = curves(tmp_path / "resumed")[4]
    assert state["count"] == 4  # two measurements on two ranks
    for name, total in zip(("feature", "label", "cluster"), state["sums"].tolist(), strict=True):
        assert logged[f"gradient/{name}"] == pytest.approx(total / 4), name


@pytest.mark.slow
def test_signal_to_one_rank(tmp_path: Path) -> None:
    """Sent in the step that a save follows: both ranks stop together, after that save."""
    process = run_on_two(tmp_path, epochs=2, signal_at=[1, 1])
    assert process.returncode == 143, process.stderr
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2
    assert not (tmp_path / "final.ckpt").exists()


@pytest.mark.parametrize(
    ("hook", "steps"),
    [("on_train_batch_end", 5), pytest.param("on_validation_end", 3, marks=pytest.mark.slow)],
)
def test_a_callback_that_stops_one_rank_stops_all(hook: str, steps: int, tmp_path: Path) -> None:
    """Set after step 2 of 5; the ranks meet at the end of the epoch, or of the validation."""
    validation = {"val_check_interval": 3} if hook == "on_validation_end" else {}
    options = {"devices": 2, "strategy": "ddp", "every_n_steps": 1, **validation}
    run_ranks(partial(small_run, tmp_path, epochs=2, stop_at=(1, 2, hook), **options), folder=tmp_path, timeout=90)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == steps
    assert (tmp_path / "final.ckpt").exists()
