"""Training tricks from the command line: each is an option, and they compose."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

Bnn = Callable[..., Any]


def written(folder: Any, name: str) -> dict[str, Any]:
    (path,) = folder.glob(f"runs/*/*/checkpoints/{name}.ckpt")
    return torch.load(path, weights_only=True)  # type: ignore[no-any-return]


def test_bop(bnn: Bnn, small: tuple[str, ...], workplace: Any) -> None:
    done = bnn("train", *small, "optimizer=bop", "recipe=none", "callbacks=[default,ema]")
    assert done.code == 0, done.err
    checkpoint = written(workplace, "last")
    weight = checkpoint["current_model_state"]["backbone.fc2.weight"]  # beside the average
    assert torch.equal(weight.abs(), torch.ones(16, 16))
    assert not torch.equal(checkpoint["state_dict"]["backbone.fc2.weight"], weight)


@pytest.mark.parametrize("distill", ["none", "skd"])
def test_mixing(distill: str, bnn: Bnn, small: tuple[str, ...], workplace: Any) -> None:
    done = bnn("train", *small, "mix@task.mix=both", f"distill={distill}", "task.mix.probability=0.9")
    assert done.code == 0, done.err
    assert written(workplace, "final")["bnn_lightning_config"]["task"]["mix"]["probability"] == 0.9
    assert bnn("train", *small, "mix@task.mix=mixup", "task.mix.mixup=0").err.count("`mixup` or `cutmix`") == 1


@pytest.mark.parametrize(
    "words, message",
    [
        ("task.checkpoint_activations=true", "MLP has no blocks that hold binary layers"),
        ("trainer.sync_batchnorm=true", "torch synchronises batch norm on GPUs only"),
        ("trainer.gradient_clip_algorithm=nrom trainer.gradient_clip_val=1", "nrom"),
        ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val must not be negative, got -1"),
        ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches must be 1 or more, got 0"),
        ("param_groups.weight_decay=-1", "`param_groups`: The weight decay of the group 'rest' must not be negative"),
        ("optimizer.lr=-1", "`optimizer`: Invalid learning rate: -1"),
        ("warmup_epochs=9", "`schedule`: `warmup_epochs` must be less than `epochs`"),
        ("optimizer=bop recipe=none optimizer.adaptivity=2", "`optimizer`: `adaptivity` must be in (0, 1], got 2"),
    ],
)
def test_what_cannot_be_is_refused(words: str, message: str, bnn: Bnn, small: tuple[str, ...]) -> None:
    done = bnn("train", *small, *words.split())
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


def test_bop_takes_plain_signs_only(bnn: Bnn) -> None:
    words = ("model=resnet20", "data=synthetic", "optimizer=bop", "recipe=none", "trainer.accelerator=cpu")
    done = bnn("train", *words)
    assert done.code == 2
    assert "Bop holds weights at -1 and +1, and Libra of `layer1.0.conv1`" in done.err
    assert "binarizer@model.weight_binarizer=weight_sign" in done.err
