"""Training tricks in whole runs: resumed exactly, and together with the others."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from small_run import Kill, assert_equal, curves, small_run

from bnn_lightning.data import Mix
from bnn_lightning.layers.tree import latent_weights
from bnn_lightning.optim import Bop


class Crash(Exception):
    """Stands for whatever ends a process without warning."""


def load(folder: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(folder / f"{name}.ckpt", weights_only=True)  # type: ignore[no-any-return]


BOP = {"optimizer": partial(Bop, lr=0.01, adaptivity=0.1, threshold=1e-4)}
TRICKS: dict[str, dict[str, Any]] = {
    "bop": BOP,
    "mixing, with self-distillation": {"task_options": {"mix": Mix(mixup=0.8, cutmix=1.0)}},
    "mixing and all else": BOP | {"task_options": {"mix": Mix(cutmix=1.0)}, "ema": True, "accumulate_grad_batches": 2},
    "bop, ema, clipping and accumulation": BOP | {"ema": True, "gradient_clip_val": 0.1, "accumulate_grad_batches": 2},
}


@pytest.mark.parametrize("name", TRICKS)
def test_resumed_in_mid_epoch_is_the_run_that_was_not(name: str, tmp_path: Path) -> None:
    options = {"epochs": 2, "interval": "step"} | TRICKS[name]
    small_run(tmp_path / "whole", **options)
    with pytest.raises(Crash):
        small_run(tmp_path / "crashed", callbacks=[Kill(7, Crash)], **options)
    small_run(tmp_path / "resumed", ckpt_path=tmp_path / "crashed" / "last.ckpt", **options)
    for file in ("last", "final"):
        assert_equal(load(tmp_path / "whole", file), load(tmp_path / "resumed", file), file)
    assert curves(tmp_path / "whole") == curves(tmp_path / "crashed", tmp_path / "resumed")


def test_bop_holds_signs_and_learns(tmp_path: Path) -> None:
    trainer = small_run(tmp_path, epochs=4, distill=None, optimizer=partial(Bop, lr=0.01, adaptivity=0.05))
    weights = latent_weights(trainer.lightning_module).values()
    assert all(torch.equal(weight.abs(), torch.ones_like(weight)) for weight in weights)
    accuracies = [row["test/acc"] for row in curves(tmp_path).values() if "test/acc" in row]
    assert accuracies[-1] > max(0.3, accuracies[0])
