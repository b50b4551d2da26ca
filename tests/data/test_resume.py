"""Mid-epoch resume with a real Trainer: the batches after the checkpoint are those of an uninterrupted run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from bnn_lightning.data import Augmentation, SyntheticDataModule

Step = tuple[int, int, list[int], float]


class Recorder(LightningModule):
    """Notes epoch, batch number, image indices and pixels of each training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3 * 64, 4)
        self.indices: list[int] = []
        self.steps: list[Step] = []

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.indices = batch.indices.tolist()
        return batch

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        self.steps.append((self.current_epoch, batch_idx, self.indices, images.double().sum().item()))
        return torch.nn.functional.cross_entropy(self.linear(images.flatten(1)), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def data(**options: Any) -> SyntheticDataModule:
    augment = Augmentation(flip=0.5, padding=2)
    shape = {"image_size": 8, "num_classes": 4, "num_train": 44, "num_test": 10}
    return SyntheticDataModule(**{**shape, "batch_size": 8, "augment": augment, **options})


def fit(
    folder: Path | None = None, ckpt: Path | None = None, checkpoint: dict[str, Any] | None = None, **options: Any
) -> Recorder:
    model = Recorder()
    callbacks = [ModelCheckpoint(folder, filename="{step}", save_top_k=-1, **(checkpoint or {}))] if folder else []
    trainer = Trainer(
        **{"max_epochs": 3, **options},
        accelerator="cpu",
        callbacks=callbacks,
        enable_checkpointing=bool(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(model, data(), ckpt_path=ckpt)
    return model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return fit(folder, checkpoint={"every_n_train_steps": 1}), folder


def test_each_epoch_shows_each_image_at_most_once(whole: tuple[Recorder, Path]) -> None:
    steps = whole[0].steps
    assert len(steps) == 15
    for epoch in range(3):
        seen = [i for step in steps if step[0] == epoch for i in step[2]]
        assert len(seen) == len(set(seen)) == 40
    assert steps[0][2:] != steps[5][2:]


@pytest.mark.parametrize("step", [1, 4, 5, 7, 10, 14])
def test_resume_continues_with_the_next_batch(whole: tuple[Recorder, Path], step: int) -> None:
    model, folder = whole
    resumed = fit(ckpt=folder / f"step={step}.ckpt")
    assert resumed.steps == model.steps[step:]
    assert torch.equal(resumed.linear.weight, model.linear.weight)


def test_resume_twice_in_one_epoch(whole: tuple[Recorder, Path], tmp_path: Path) -> None:
    model, folder = whole
    again = fit(tmp_path, folder / "step=6.ckpt", {"every_n_train_steps": 1}, max_steps=8)
    assert again.steps == model.steps[6:8]
    assert fit(ckpt=tmp_path / "step=8.ckpt").steps == model.steps[8:]


@pytest.mark.parametrize("checkpoint", [{"every_n_epochs": 1, "save_on_train_epoch_end": end} for end in (True, False)])
def test_resume_between_epochs(whole: tuple[Recorder, Path], tmp_path: Path, checkpoint: dict[str, Any]) -> None:
    fit(tmp_path, checkpoint=checkpoint, max_epochs=2)
    resumed = fit(ckpt=tmp_path / "step=10.ckpt")
    assert resumed.steps == whole[0].steps[10:]


def test_resume_with_accumulation(tmp_path: Path) -> None:
    options = {"accumulate_grad_batches": 2}
    model = fit(tmp_path, checkpoint={"every_n_train_steps": 1}, **options)
    assert len(model.steps) == 30
    resumed = fit(ckpt=tmp_path / "step=7.ckpt", **options)
    assert resumed.steps == model.steps[14:]
    assert torch.equal(resumed.linear.weight, model.linear.weight)


def test_training_limited_by_steps(tmp_path: Path) -> None:
    model = fit(tmp_path, checkpoint={"every_n_train_steps": 1}, max_epochs=-1, max_steps=12)
    resumed = fit(ckpt=tmp_path / "step=8.ckpt", max_epochs=-1, max_steps=12)
    assert [step[2:] for step in resumed.steps] == [step[2:] for step in model.steps[8:]]


def test_another_seed_inside_an_epoch_is_an_error(whole: tuple[Recorder, Path]) -> None:
    trainer = Trainer(accelerator="cpu", max_epochs=3, logger=False, enable_checkpointing=False, barebones=False)
    with pytest.raises(ValueError, match=r"inside epoch 0, after 2 of 5 batches.*`seed` was 0 and is 1"):
        trainer.fit(Recorder(), data(seed=1), ckpt_path=whole[1] / "step=2.ckpt")
