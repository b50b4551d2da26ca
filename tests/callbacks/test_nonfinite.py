"""A loss that is not finite: no checkpoint holds what came of it."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bnn_lightning.callbacks import LastCheckpoint, NonFiniteLoss, NonFiniteLossError
from bnn_lightning.tasks import ClassificationTask


class Net(LightningModule):
    """Learns with momentum, and has batch statistics and a sum in buffers."""

    def __init__(self, *, bad_gradient: int | None = None) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.register_buffer("total", torch.zeros(()))
        self.bad_gradient = bad_gradient

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.net(batch).square().mean()
        self.total += loss.detach()
        if self.global_step == self.bad_gradient:  # a finite loss whose gradient is not
            loss = loss + (self.net[0].weight[0, 0] * 0.0).sqrt()
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)


def batches(*bad: int) -> DataLoader[Tensor]:
    images = torch.rand(8, 2, 4, generator=torch.Generator().manual_seed(0))
    images[list(bad)] = math.nan
    return DataLoader(list(images.unbind()), batch_size=None)  # type: ignore[arg-type]


def fit(net: Net, loader: DataLoader[Tensor], folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    last = LastCheckpoint(folder, every_n_steps=2)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=2,
        callbacks=[*callbacks, last], log_every_n_steps=50, **options,
    )  # fmt: skip
    trainer.fit(net, loader)
    return trainer


@pytest.mark.parametrize("bad, saved", [(3, 2), (4, 4), (7, 6)])
def test_it_ends_the_run_and_the_last_checkpoint_is_good(bad: int, saved: int, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=f"step {bad}, in epoch 0"):
        fit(Net(), batches(bad), tmp_path, NonFiniteLoss())
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == saved
    assert all(torch.isfinite(value).all() for value in checkpoint["state_dict"].values())


def test_it_does_not_wait_for_the_device_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    look = NonFiniteLoss._first_bad

    def count(self: NonFiniteLoss) -> int | None:
        looked.append(1)
        return look(self)

    monkeypatch.setattr(NonFiniteLoss, "_first_bad", count)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=2,
        callbacks=[NonFiniteLoss()], enable_checkpointing=False, log_every_n_steps=4,
    )  # fmt: skip
    trainer.fit(Net(), batches())
    assert len(looked) == 2 * (8 // 4 + 1) + 1


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    """The loss of the step is finite, its gradient is not: the next loss would show it, after the checkpoint."""
    with pytest.raises(NonFiniteLossError, match="weight"):
        fit(Net(bad_gradient=3), batches(), tmp_path, NonFiniteLoss())
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert all(torch.isfinite(value).all() for value in checkpoint["state_dict"].values())


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_step_that_is_skipped_changes_nothing(accumulated: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, other = Net(), Net()
    other.load_state_dict(net.state_dict())
    skip = NonFiniteLoss("skip")
    options = {"accumulate_grad_batches": accumulated}
    with pytest.warns(UserWarning, match="step 2"):
        fit(net, batches(2 * accumulated), tmp_path / "a", skip, **options)
    kept = [image for i, image in enumerate(batches()) if i // accumulated != 2]
    fit(other, DataLoader(kept, batch_size=None), tmp_path / "b", **options)  # type: ignore[arg-type]
    assert skip.skipped == 2
    assert all(map(torch.equal, net.state_dict().values(), other.state_dict().values()))


def test_a_step_that_is_skipped_is_not_in_the_means() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    task = ClassificationTask(network, num_classes=2, optimizer=partial(torch.optim.SGD, lr=0.0))
    images, labels = torch.rand(4, 2, 1, 2, 2), torch.tensor([[0, 1]] * 4)
    means = []
    for bad in (False, True):
        if bad:
            images = torch.cat([images, torch.full((1, 2, 1, 2, 2), math.nan)])
            labels = torch.cat([labels, labels[:1]])
        loader: Any = DataLoader(TensorDataset(images, labels), batch_size=None)
        trainer = Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=1,
            callbacks=[NonFiniteLoss("skip")], enable_checkpointing=False,
        )  # fmt: skip
        trainer.fit(task, loader)
        means.append({name: float(trainer.callback_metrics[f"train/{name}"]) for name in ("loss", "acc")})
    assert means[0] == means[1]


def test_without_it_the_run_goes_on(tmp_path: Path) -> None:
    net = Net()
    assert fit(net, batches(3), tmp_path).global_step == 16
    assert not torch.isfinite(net.net[0].weight).all()


def test_an_unknown_action() -> None:
    with pytest.raises(ValueError, match="action"):
        NonFiniteLoss("stop")  # type: ignore[arg-type]
