"""Run on two processes by test_ddp.py: train, resume in mid-epoch, evaluate; each rank writes what it saw."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torchmetrics import MeanMetric

from bnn_lightning.data import Augmentation, SyntheticDataModule


class Recorder(LightningModule):
    """Notes the images of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3 * 64, 4)
        self.mean_label = MeanMetric()
        self.steps: list[Any] = []

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.steps.append([batch.epoch, batch.indices.tolist()])
        return batch

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.linear(images.flatten(1)), labels)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        # Not `self.log(..., sync_dist=True, batch_size=...)` of a number: Lightning 2.6 weights the ranks with their
        # mean number of images rounded down, so that 7 and 6 images count as 6 and 6.
        self.mean_label.update(labels.float().mean(), weight=len(images))
        self.log("mean_label", self.mean_label, on_epoch=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def data(**options: Any) -> SyntheticDataModule:
    shape = {"image_size": 8, "num_classes": 4, "num_train": 22, "num_test": 13, "batch_size": 4}
    return SyntheticDataModule(**{**shape, "augment": Augmentation(flip=0.5, padding=2), **options})


def trainer(**options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    distributed = {"accelerator": "cpu", "strategy": "ddp", "devices": 2, "use_distributed_sampler": False}
    return Trainer(**{**quiet, **distributed, "max_epochs": 2, "enable_checkpointing": False, **options})


def error_of(module: Any) -> str:
    try:
        trainer().fit(Recorder(), module)
    except ValueError as error:
        return str(error)
    return "none"


def note_process(folder: Path, variable: str) -> None:
    """Write down a rank's number of threads and a variable of its environment."""
    noted = [torch.get_num_threads(), os.environ.get(variable)]
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(noted))


def main(folder: Path) -> None:
    seen: dict[str, Any] = {}
    callback = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole, resumed, tested = Recorder(), Recorder(), Recorder()
    trainer(callbacks=[callback], enable_checkpointing=True).fit(whole, data())
    trainer().fit(resumed, data(), ckpt_path=folder / "step=3.ckpt")
    seen["mean_label"] = trainer().test(tested, data(), verbose=False)[0]["mean_label"]
    seen.update(whole=whole.steps, resumed=resumed.steps, tested=tested.steps)
    seen["odd_batch"] = error_of(data(batch_size=5))
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(seen))
