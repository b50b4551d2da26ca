"""A run that was stopped and resumed is the run that was not, to the bit."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

sys.path.insert(0, str(Path(__file__).parent))
from small_run import Kill, assert_equal, curves, small_run


class Crash(Exception):
    """Stands for whatever ends a process without warning."""


class Signal(Callback):
    """Sends a signal in the middle of an optimizer step."""

    def __init__(self, step: int, signum: int, times: int = 1) -> None:
        self.step, self.signum, self.times = step, signum, times

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            for _ in range(self.times):
                signal.raise_signal(self.signum)


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


VARIANTS: dict[str, dict[str, Any]] = {
    "steps": {"interval": "step"},
    "accumulation": {"accumulate_grad_batches": 2, "interval": "step"},
    "averaging": {"ema": True},
    "max_steps": {"max_steps": 13, "max_epochs": -1},
    "validation within the epoch": {"val_check_interval": 2},
    "sparse validation": {"check_val_every_n_epoch": 2},
    "epochs only": {"every_n_steps": None},
    "convolutions": {
        "model": "resnet20",
        "epochs": 2,
        "limit_train_batches": 5,
        "limit_val_batches": 1,
        "batch_size": 8,
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(tmp_path: Path, variant: str) -> None:
    """Stopped in the first step after an epoch, and in the middle of one (of 5 steps)."""
    small_run(tmp_path / "whole", **VARIANTS[variant])
    for step in (6, 8):
        folder = tmp_path / str(step)
        crash_and_resume(folder, step, **VARIANTS[variant])
        assert_equal(load(tmp_path / "whole"), load(folder / "resumed"), f"{step}: last")
        assert_equal(load(tmp_path / "whole", "final"), load(folder / "resumed", "final"), f"{step}: final")
        assert curves(tmp_path / "whole") == curves(folder / "crashed", folder / "resumed")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [3, 4])
def test_signal(tmp_path: Path, signum: int, step: int) -> None:
    """Ctrl-C is obeyed after the step, or after the epoch's end; nothing is lost."""
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    small_run(tmp_path / "whole")
    with pytest.raises(SystemExit) as stopped:
        small_run(tmp_path / "stopped", every_n_steps=None, callbacks=[Signal(step, signum)])
    assert stopped.value.code == (1 if signum == signal.SIGINT else 143)
    assert load(tmp_path / "stopped")["global_step"] == step + 1
    assert not (tmp_path / "stopped" / "final.ckpt").exists()
    small_run(tmp_path / "resumed", ckpt_path=tmp_path / "stopped" / "last.ckpt")
    assert_equal(load(tmp_path / "whole"), load(tmp_path / "resumed"))
    assert curves(tmp_path / "whole") == curves(tmp_path / "stopped", tmp_path / "resumed")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_second_signal_stops_at_once(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        small_run(tmp_path, every_n_steps=None, callbacks=[Signal(7, signal.SIGINT, times=2)])
    assert load(tmp_path)["global_step"] == 5  # the end of the first epoch


def test_lightnings_checkpoints(tmp_path: Path) -> None:
    """A checkpoint of Lightning's own after the last step of an epoch: its bank is committed all the same."""
    small_run(tmp_path / "whole")
    options = {"dirpath": tmp_path, "filename": "step", "every_n_train_steps": 5, "save_top_k": 1}
    with pytest.raises(Crash):
        small_run(tmp_path / "crashed", callbacks=[Kill(6, Crash), ModelCheckpoint(**options)])
    small_run(tmp_path / "resumed", ckpt_path=tmp_path / "step.ckpt")
    assert_equal(load(tmp_path / "whole")["state_dict"], load(tmp_path / "resumed")["state_dict"])


@pytest.mark.slow
def test_killed_command(tmp_path: Path) -> None:
    """`train.py`, killed from outside at a moment that nobody chose, and resumed with `ckpt_path=last`."""
    train = [sys.executable, str(Path(__file__).parents[2] / "train.py"), "model=mlp", "model.width=64", "distill=skd"]
    train += ["epochs=12", "callbacks.last_checkpoint.every_n_steps=3", "trainer.enable_progress_bar=false"]
    train += ["trainer.accelerator=cpu", "test=false"]
    silent = {"cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*train, "name=whole"], check=True, **silent)
    process = subprocess.Popen([*train, "name=killed"], **silent)
    while not list(tmp_path.glob("runs/killed/*/checkpoints/last.ckpt")) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(random.Random().random())
    process.kill()
    assert process.wait() == -9
    (killed,) = tmp_path.glob("runs/killed/*/checkpoints/last.ckpt")
    step = torch.load(killed, weights_only=True)["global_step"]
    subprocess.run([*train, "name=killed", "ckpt_path=last"], check=True, **silent)
    (whole,) = tmp_path.glob("runs/whole/*/checkpoints")
    (resumed,) = tmp_path.glob("runs/killed/*/checkpoints/final.ckpt")
    for name in ("last", "final"):
        left, right = load(whole, name), load(resumed.parent, name)
        for config in (left.pop("bnn_lightning_config"), right.pop("bnn_lightning_config")):
            assert config["model"]["width"] == 64
        assert_equal(left, right, f"killed after {step} saved steps: {name}")
