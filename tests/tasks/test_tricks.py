"""Training tricks in whole runs: resumed exactly, and together with the others."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer

sys.path.insert(0, str(Path(__file__).parent))
from small_run import Kill, assert_equal, curves, small_run

from bnn_lightning.data import MixupCutmix
from bnn_lightning.layers.module_utils import latent_weights
from bnn_lightning.optim import Bop


class Crash(Exception):
    """Stands for whatever ends a process without warning."""


def load(folder: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(folder / f"{name}.ckpt", weights_only=True)  # type: ignore[no-any-return]


BOP = {"optimizer": partial(Bop, lr=0.01, adaptivity=0.1, threshold=1e-4)}
TRICKS: dict[str, dict[str, Any]] = {
    "bop": BOP,
    "mixing, with self-distillation": {"task_options": {"mix": MixupCutmix(mixup=0.8, cutmix=1.0)}},
    "mixing and all else": BOP
    | {"task_options": {"mix": MixupCutmix(cutmix=1.0)}, "ema": True, "accumulate_grad_batches": 2},
    "activation checkpointing, with self-distillation and mixing": {
        "model": "resnet20",
        "backbone": {"width": 4},
        "task_options": {"checkpoint_activations": True, "mix": MixupCutmix(mixup=0.2)},
    },
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


@pytest.mark.parametrize("optimizer", [None, BOP["optimizer"]], ids=["sgd", "bop"])
def test_accumulated_batches_are_one(optimizer: Any, tmp_path: Path) -> None:
    """In float64, without what a batch has in common (batch norm, dropout): the same updates."""
    options: dict[str, Any] = {"epochs": 2, "precision": "64-true", "comparable": True, "distill": None}
    options |= {"backbone": {"dropout": 0.0}, "batch_size": 96, "optimizer": optimizer, "gradient_clip_val": 0.5}
    whole = small_run(tmp_path / "whole", **options)
    parts = small_run(tmp_path / "parts", accumulate_grad_batches=3, **options)
    assert whole.global_step == parts.global_step
    states = [run.lightning_module.backbone.state_dict() for run in (whole, parts)]
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-9, atol=1e-10)


class Updates(Callback):
    """Keeps the norm of every update."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.before = [p.detach().clone() for p in pl_module.parameters()]

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        moves = [p.detach() - b for p, b in zip(pl_module.parameters(), self.before, strict=True)]
        self.norms.append(torch.stack([move.norm() for move in moves]).norm().item())


def test_the_norm_of_the_gradient_is_clipped(tmp_path: Path) -> None:
    sgd = partial(torch.optim.SGD, lr=1.0)
    options: dict[str, Any] = {"epochs": 1, "distill": None, "standard": False, "optimizer": sgd}
    free, clipped = Updates(), Updates()
    small_run(tmp_path / "free", callbacks=[free], **options)
    small_run(tmp_path / "clipped", callbacks=[clipped], gradient_clip_val=0.01, **options)
    assert min(free.norms) > 0.02
    # The decay of 1e-4 comes after the clipping.
    assert clipped.norms == pytest.approx([0.01] * len(free.norms), abs=0.005)


def test_bop_holds_signs_and_learns(tmp_path: Path) -> None:
    trainer = small_run(tmp_path, epochs=4, distill=None, optimizer=partial(Bop, lr=0.01, adaptivity=0.05))
    weights = latent_weights(trainer.lightning_module).values()
    assert all(torch.equal(weight.abs(), torch.ones_like(weight)) for weight in weights)
    accuracies = [row["test/acc"] for row in curves(tmp_path).values() if "test/acc" in row]
    assert accuracies[-1] > max(0.3, accuracies[0])
