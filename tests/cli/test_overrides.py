"""Overrides of `callbacks` and `lr_scheduler`: effects, and parts of a run that none takes away."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bnn_lightning.workflows.training_config import NEEDED

Bnn = Callable[..., Any]
RUN = ("channel_blend_clip", *NEEDED)


@pytest.mark.parametrize(
    "override",
    ["callbacks=ema", "callbacks=none", "callbacks=[]", "callbacks=[ema,default]", "callbacks=[default, ema]"],
)
def test_no_choice_of_callbacks_leaves_out_what_a_run_needs(override: str, composed: Callable[..., Any]) -> None:
    callbacks = composed(override)["callbacks"]
    assert all(callbacks[key] is not None for key in RUN)
    assert (callbacks["ema"] is not None) == ("ema" in override)
    order = list(callbacks)
    places = [order.index(name) for name in ("channel_blend_clip", "ema", "bn_reestimate", "final_checkpoint")]
    assert places == sorted(places)


def test_a_run_with_other_callbacks_resumes(bnn: Bnn, workplace: Path, small: tuple[str, ...]) -> None:
    words = ("callbacks=ema", "hydra.run.dir=run", "callbacks.last_checkpoint.every_n_steps=3")
    assert bnn("train", *small, *words).code == 0
    states = torch.load("run/checkpoints/last.ckpt", weights_only=True)["callbacks"]
    assert "RNGState" in states
    assert (workplace / "run" / "checkpoints" / "final.ckpt").is_file()


@pytest.mark.parametrize("override", ["callbacks.rng_state=null", "~callbacks.last_checkpoint"])
def test_what_a_run_needs_cannot_be_switched_off(override: str, bnn: Bnn, small: tuple[str, ...]) -> None:
    done = bnn("train", *small, override)
    assert done.code == 2
    assert f"`callbacks.{override.partition('.')[2].partition('=')[0]}` must not be null or missing" in done.err


def test_a_scheduler_of_torch(bnn: Bnn, workplace: Path, small: tuple[str, ...]) -> None:
    (workplace / "mine" / "lr_scheduler").mkdir(parents=True)
    node = "_target_: torch.optim.lr_scheduler.{}\n_partial_: true\n"
    (workplace / "mine" / "lr_scheduler" / "step.yaml").write_text(node.format("StepLR") + "step_size: 1\ngamma: 0.1\n")
    (workplace / "mine" / "lr_scheduler" / "plateau.yaml").write_text(node.format("ReduceLROnPlateau"))
    done = bnn("train", "-cd", "mine", *small, "lr_scheduler=step", "optimizer.lr=0.5", "hydra.run.dir=run")
    assert done.code == 0, done.err
    (scheduler,) = torch.load("run/checkpoints/last.ckpt", weights_only=True)["lr_schedulers"]
    assert scheduler["last_epoch"] == 2
    assert scheduler["_last_lr"] == pytest.approx([0.5 * 0.1**2] * len(scheduler["_last_lr"]))
    done = bnn("train", "-cd", "mine", *small, "lr_scheduler=plateau")
    assert done.code == 2
    assert "`lr_scheduler`: ReduceLROnPlateau watches a metric" in done.err


@pytest.mark.parametrize("finder", ["LearningRateFinder", "BatchSizeFinder"])
def test_tuners_are_refused_with_the_reason(finder: str, bnn: Bnn, small: tuple[str, ...]) -> None:
    done = bnn("train", *small, f"+callbacks.finder._target_=pytorch_lightning.callbacks.{finder}")
    assert done.code == 2
    assert f"`callbacks.finder._target_`: {finder} of Lightning's Tuner is refused: it" in done.err
