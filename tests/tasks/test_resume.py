"""A run that was stopped and resumed is the run that was not, to the bit."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from small_run import Kill, assert_equal, curves, small_run  # noqa: E402


class Crash(Exception):
    """Stands for whatever ends a process without warning."""


def load(folder: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(folder / f"{name}.ckpt", weights_only=True)  # type: ignore[no-any-return]


def crash_and_resume(folder: Path, step: int, **options: Any) -> None:
    with pytest.raises(Crash):
        small_run(folder / "crashed", callbacks=[Kill(step, Crash)], **options)
    small_run(folder / "resumed", ckpt_path=folder / "crashed" / "last.ckpt", **options)


def test_killed_process(tmp_path: Path) -> None:
    options = {"model": "mlp", "interval": "step", "epochs": 3}
    small_run(tmp_path / "whole", **options)  # 5 steps an epoch
    step = random.Random().randrange(3, 15)
    killed = json.dumps({"folder": str(tmp_path / "killed"), "kill_at": step, **options})
    process = subprocess.run([sys.executable, Path(__file__).parent / "small_run.py", killed], capture_output=True)
    assert process.returncode == -9, process.stderr.decode()
    small_run(tmp_path / "resumed", ckpt_path=tmp_path / "killed" / "last.ckpt", **options)
    for name in ("last", "final"):
        assert_equal(load(tmp_path / "whole", name), load(tmp_path / "resumed", name), f"killed at {step}: {name}")
    assert curves(tmp_path / "whole") == curves(tmp_path / "killed", tmp_path / "resumed")


@pytest.mark.parametrize("step", [1 + 2 * i for i in range(1, 7)])
def test_any_step(tmp_path: Path, step: int) -> None:
    small_run(tmp_path / "whole")
    crash_and_resume(tmp_path, step)
    assert_equal(load(tmp_path / "whole"), load(tmp_path / "resumed"))
    assert curves(tmp_path / "whole") == curves(tmp_path / "crashed", tmp_path / "resumed")


VARIANTS: dict[str, dict[str, Any]] = {
    "steps": {"interval": "step"},
    "accumulation": {"accumulate_grad_batches": 2, "interval": "step"},
    "max_steps": {"max_steps": 13, "max_epochs": -1},
    "validation within the epoch": {"val_check_interval": 2},
    "sparse validation": {"check_val_every_n_epoch": 2},
    "epochs only": {"every_n_steps": None},
    "convolutions": {"model": "resnet20", "limit_train_batches": 3, "limit_val_batches": 1, "batch_size": 32},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("step", [6, 7, 9])
def test_variants(tmp_path: Path, variant: str, step: int) -> None:
    if variant == "convolutions" and step == 9:
        pytest.skip("the run has 9 steps")
    small_run(tmp_path / "whole", **VARIANTS[variant])
    crash_and_resume(tmp_path, step, **VARIANTS[variant])
    assert_equal(load(tmp_path / "whole"), load(tmp_path / "resumed"))
    assert curves(tmp_path / "whole") == curves(tmp_path / "crashed", tmp_path / "resumed")
