"""Training tricks from the command line: each is an option, and they compose."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bnn_lightning.binarizers import TemperatureSign
from bnn_lightning.workflows.checks import logged_names, relaxed
from bnn_lightning.workflows.training import _train as train

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


TEMPERATURE = ("binarizer@model.weight_binarizer=temperature", "model.weight_binarizer.binary_from=0.5")


@pytest.mark.parametrize("word", ["callbacks.ema.use_buffers=true", "callbacks.ema.update_every_n_steps=100"])
def test_an_average_is_binary(word: str, bnn: Bnn, small: tuple[str, ...], workplace: Any) -> None:
    words = (*TEMPERATURE, "epochs=4", "data.val_fraction=0.25", "callbacks=[default,ema,best]", word)
    done = bnn("train", *small, *words)
    assert done.code == 0, done.err
    assert "NOT BINARY" not in done.out + done.err
    threshold = torch.tensor(1e-7)
    for name in ("best", "final", "last"):
        temperatures = [v for k, v in written(workplace, name)["state_dict"].items() if k.endswith("temperature")]
        assert temperatures
        assert all(temperature <= threshold for temperature in temperatures), name


def test_an_average_of_temperatures_is_refused(bnn: Bnn, small: tuple[str, ...]) -> None:
    lightnings = "callbacks.ema._target_=pytorch_lightning.callbacks.EMAWeightAveraging"
    done = bnn("train", *small, *TEMPERATURE, "callbacks=[default,ema]", lightnings)
    assert done.code == 2
    assert "Take bnn_lightning.callbacks.EMAWeightAveraging" in done.err


def test_a_temperature_that_was_copied_past_autograd_is_seen() -> None:
    binarizer = TemperatureSign(binary_from=0.5)
    binarizer.set_progress(0.5)
    assert relaxed(binarizer) is None
    binarizer.temperature.data.copy_(torch.tensor(0.9))
    warning = relaxed(binarizer)
    assert warning is not None
    assert warning.startswith("NOT BINARY: 1 binarizers")


def test_patience_starts_with_the_binary_network(bnn: Bnn, small: tuple[str, ...], workplace: Any) -> None:
    """With an improvement that is out of reach, patience is all that there is."""
    stopping = ("callbacks=[default,early_stopping]", "callbacks.early_stopping.patience=2")
    words = (*TEMPERATURE, *stopping, "callbacks.early_stopping.min_delta=2", "epochs=12", "data.val_fraction=0.25")
    done = bnn("train", *small, *words)
    assert done.code == 0, done.err
    assert "EarlyStopping does not look at it" in done.out + done.err
    # Binary from epoch 6, which is the first to be compared with; two more are not better.
    assert written(workplace, "last")["epoch"] == 6 + 2


@pytest.mark.parametrize(
    "words, name",
    [
        ("callbacks=[default,best] callbacks.best.monitor=val/accuracy", "BestCheckpoint looks at `val/accuracy`"),
        ("callbacks=[default,early_stopping] callbacks.early_stopping.monitor=val/los", "EarlyStopping looks at"),
        ("objective=nonsense", "objective looks at `nonsense`"),
        ("objective=binary/flip", "objective looks at `binary/flip`"),
    ],
)
def test_a_metric_that_is_not_logged_is_refused(words: str, name: str, bnn: Bnn, small: tuple[str, ...]) -> None:
    done = bnn("train", *small, "data.val_fraction=0.25", *words.split())
    assert done.code == 2
    assert name in done.err
    assert "There are: " in done.err
    for metric in ("val/acc", "val/acc_top5", "val/loss", "train/acc", "train/loss", "lr", "binary/flip_rate"):
        assert metric in done.err
    assert "test/acc" not in done.err
    assert "Traceback" not in done.err


def test_what_is_logged_is_what_may_be_chosen_by(bnn: Bnn, small: tuple[str, ...]) -> None:
    runs: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bnn_lightning.workflows.training._train", lambda run: runs.append(run) or train(run))
        words = (
            "callbacks=[default,gradient_share]",
            "callbacks.flip_rate.per_layer=true",
            "distill=skd",
            "test=false",
        )
        assert bnn("train", *small, *TEMPERATURE, "data.val_fraction=0.25", *words).code == 0
    (run,) = runs
    logged = logged_names(run.task, run.trainer.callbacks, has_val=True)
    assert logged is not None
    assert set(run.trainer.callback_metrics) == set(logged) - {"data/damaged"}


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
        ("trainer.sync_batchnorm=true", "torch synchronizes batch norm on GPUs only"),
        ("trainer.gradient_clip_algorithm=nrom trainer.gradient_clip_val=1", "nrom"),
        ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val must not be negative, got -1"),
        ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches must be 1 or more, got 0"),
        ("param_groups.weight_decay=-1", "`param_groups`: The weight decay of the group 'rest' must not be negative"),
        ("optimizer.lr=-1", "`optimizer`: Invalid learning rate: -1"),
        ("warmup_epochs=9", "`lr_scheduler`: `warmup_epochs` must be less than `epochs`"),
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
