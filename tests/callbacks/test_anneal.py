from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from bnn_lightning.binarizers import EDE, ReSTE, SignEDE, TemperatureSign
from bnn_lightning.callbacks import AnnealProgress


def fake_trainer(**options: Any) -> Any:
    defaults = {"max_epochs": 700, "current_epoch": 0, "accumulate_grad_batches": 1, "num_training_batches": 10}
    return SimpleNamespace(**defaults | options)


@pytest.mark.parametrize(("epoch", "t"), [(0, 0.001), (175, 0.01), (350, 0.1), (525, 1.0), (699, 9.869286)])
def test_published_sharpness(epoch: int, t: float) -> None:
    """Vector A8 of SKD-BNN, E = 700."""
    network = nn.Sequential(SignEDE(), nn.Linear(2, 2), SignEDE())
    AnnealProgress(700).on_train_epoch_start(fake_trainer(current_epoch=epoch), network)  # type: ignore[arg-type]
    for module in network.modules():
        if isinstance(module, EDE):
            assert float(module.t) == pytest.approx(t, rel=1e-6)


def test_steps_count_optimizer_steps() -> None:
    callback, network = AnnealProgress(4, interval="step"), nn.Sequential(SignEDE(t_min=1.0, t_max=16.0))
    for step, t in [(0, 1.0), (5, 2.0), (10, 4.0), (19, 16 ** (19 / 20))]:  # 4 epochs of ceil(10 / 2) steps
        trainer = fake_trainer(global_step=step, accumulate_grad_batches=2)
        callback.on_train_batch_start(trainer, network, None, 0)  # type: ignore[arg-type]
        assert float(network[0].t) == pytest.approx(t, rel=1e-6)


def test_past_the_end() -> None:
    callback, network = AnnealProgress(4), nn.Sequential(SignEDE())
    with pytest.warns(UserWarning, match="annealing of 4 epochs is over"):
        callback.on_train_epoch_start(fake_trainer(current_epoch=9), network)  # type: ignore[arg-type]
    assert float(network[0].t) == 10.0


def test_a_finished_run_is_left_alone() -> None:
    callback, network = AnnealProgress(4), nn.Sequential(SignEDE())
    callback.on_train_start(fake_trainer(current_epoch=4, max_epochs=4), network)  # type: ignore[arg-type]
    assert torch.equal(network[0].t, torch.tensor(1e-3))


def test_errors() -> None:
    with pytest.raises(ValueError, match="`epochs` must be positive, got 0"):
        AnnealProgress(0)
    with pytest.raises(ValueError, match="`interval` must be one of"):
        AnnealProgress(1, interval="batch")  # type: ignore[arg-type]


def test_what_changes_is_logged() -> None:
    network, logged = nn.Sequential(SignEDE(), nn.Linear(2, 2), TemperatureSign(), SignEDE(), ReSTE()), {}
    network.log_dict = logged.update  # type: ignore[assignment]
    callback = AnnealProgress(4)
    callback.on_train_epoch_start(fake_trainer(current_epoch=2), network)  # type: ignore[arg-type]
    callback.on_train_epoch_end(fake_trainer(current_epoch=2), network)  # type: ignore[arg-type]
    assert set(logged) == {"binary/t", "binary/temperature", "binary/power"}
    assert float(logged["binary/t"]) == pytest.approx(0.1)
    assert float(logged["binary/power"]) == 2.0


def test_nothing_is_logged_where_nothing_changes() -> None:
    AnnealProgress(4).on_train_epoch_end(fake_trainer(), nn.Sequential(nn.ReLU()))  # type: ignore[arg-type]
