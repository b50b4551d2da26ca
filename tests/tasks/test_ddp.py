"""Two processes train as one does."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ranks import run_ranks

sys.path.insert(0, str(Path(__file__).parent))
from small_run import assert_equal, curves, small_run

# In batches cut in two, the terms that are means over samples stay what they were. The reference's feature loss (a
# norm over the batch) and the cluster loss (means over the batch) are those of a rank's own part.
EQUAL_TERMS = {"normalization": "per_sample", "feature_pooling": "channel_spatial", "gamma": 0.0, "alpha": 0.5}
TWO = {"devices": 2, "strategy": "ddp"}


def run_script(folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).parent / "small_run.py"
    command = [sys.executable, str(script), json.dumps({"folder": str(folder), **TWO, **options})]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("model", ["mlp", pytest.param("resnet20", marks=pytest.mark.slow)])
def test_two_processes_are_one(tmp_path: Path, model: str) -> None:
    """The same global batches in float64: 50 losses within 1e-10, and the same parameters on both ranks.

    In float32 a single sign that falls the other way parts the two runs.
    """
    pooling = {"feature_pooling": "none"} if model == "mlp" else {}
    options: dict[str, Any] = {
        "model": model,
        "epochs": 10,
        "max_steps": 50,
        "precision": "64-true",
        "comparable": True,
    }
    backbone = {"dropout": 0.0} if model == "mlp" else {"width": 4}
    # The self-teacher's batch norm takes the statistics of a rank's own images.
    terms = EQUAL_TERMS | pooling | ({} if model == "mlp" else {"alpha": 0.0})
    options |= {"distill": terms, "backbone": backbone, "batch_size": 8, "every_n_steps": None}
    options |= {"limit_train_batches": 10}
    small_run(tmp_path / "one", **options)
    run_ranks(partial(small_run, tmp_path / "two", **TWO, **options), folder=tmp_path)
    one = torch.load(tmp_path / "one" / "rank0of1.pt")
    ranks = [torch.load(tmp_path / "two" / f"rank{rank}of2.pt") for rank in (0, 1)]
    assert len(one["losses"]) == 50
    for step, (loss, *parts) in enumerate(zip(one["losses"], *(rank["losses"] for rank in ranks), strict=True)):
        assert sum(parts) / 2 == pytest.approx(loss, rel=0, abs=1e-10), step
    for name, value in one["state"].items():
        if not name.startswith("train_means"):
            assert torch.equal(ranks[0]["state"][name], ranks[1]["state"][name]), name
            torch.testing.assert_close(value, ranks[0]["state"][name], rtol=1e-10, atol=1e-10)
    for step, row in curves(tmp_path / "one").items():
        other = curves(tmp_path / "two")[step]
        for name in row.keys() - {"train/loss_step", *(name for name in row if name.startswith("gradient/"))}:
            assert other[name] == pytest.approx(row[name], rel=1e-7), name


@pytest.mark.slow
def test_resume_of_two_processes(tmp_path: Path) -> None:
    """Killed in mid-epoch with dropout on: random states, sums and bank of both ranks go on; averages too."""
    options = {"ema": True, "comparable": True}
    assert run_script(tmp_path / "whole", **options).returncode == 0
    assert run_script(tmp_path / "killed", kill_at=8, **options).returncode != 0
    resumed = run_script(tmp_path / "resumed", ckpt_path=str(tmp_path / "killed" / "last.ckpt"), **options)
    assert resumed.returncode == 0, resumed.stderr
    for name in ("last", "final"):
        assert_equal(*(torch.load(tmp_path / run / f"{name}.ckpt") for run in ("whole", "resumed")))
    states = [torch.load(tmp_path / "whole" / f"rank{rank}of2.pt")["state"] for rank in (0, 1)]
    assert_equal(*({k: v for k, v in state.items() if k.startswith("backbone")} for state in states))
    assert curves(tmp_path / "whole") == curves(tmp_path / "killed", tmp_path / "resumed")
