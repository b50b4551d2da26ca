"""Run on two processes by test_plain_data.py: data modules of others; each rank writes which images it saw."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pytorch_lightning import LightningDataModule, LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from bnn_lightning.cli.config_paths import config_dir
from bnn_lightning.workflows.building import build_datamodule
from bnn_lightning.workflows.checks import check_data
from bnn_lightning.workflows.trainer import build_trainer


class Plain(LightningDataModule):
    """A data module that knows nothing of ranks; an image is its own number."""

    def __init__(self, train: int, evaluation: int, batch_size: int = 4, own_sampler: bool = False) -> None:
        super().__init__()
        self.sizes = {"train": train, "val": evaluation, "test": evaluation}
        self.batch_size, self.own_sampler = batch_size, own_sampler
        self.calls: list[str] = []

    def prepare_data(self) -> None:
        self.calls.append("prepare_data")

    def setup(self, stage: str) -> None:
        self.calls.append(f"setup {getattr(stage, 'value', stage)}")

    def _loader(self, part: str) -> DataLoader[Any]:
        images = TensorDataset(torch.arange(self.sizes[part], dtype=torch.float32).unsqueeze(1))
        sampler = SubsetRandomSampler(range(self.sizes[part])) if self.own_sampler and part != "train" else None
        return DataLoader(images, batch_size=self.batch_size, shuffle=part == "train", sampler=sampler)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader("val")

    def test_dataloader(self) -> dict[str, DataLoader[Any]]:
        return {"whole": self._loader("test")}


class Recorder(LightningModule):
    """Notes the images of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)
        self.register_buffer("statistic", torch.zeros(1))  # DDP hands buffers out in each forward, in evaluation too
        self.seen: dict[str, list[list[float]]] = {"train": [], "val": [], "test": []}

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.seen["train"].append(batch[0].flatten().tolist())
        return self.linear(batch[0]).sum()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.seen["val"].append(batch[0].flatten().tolist())

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.seen["test"].append(batch[0].flatten().tolist())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def main(folder: Path) -> None:
    words = ["trainer.accelerator=cpu", "trainer.devices=2", "strategy=ddp", "epochs=2"]
    words += ["trainer.enable_progress_bar=false", "trainer.enable_model_summary=false", "trainer.plugins=[]"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", words), resolve=True)
    found = {}
    for name, options in json.loads((folder / "modules.json").read_text()).items():
        node = {"_target_": f"{__name__}.Plain", **options}
        datamodule, recorder = build_datamodule(node, trust=["tests"]), Recorder()
        trainer = build_trainer({**config["trainer"], "enable_checkpointing": False}, callbacks=[], loggers=[])
        check_data(datamodule, trainer, stage="fit")
        trainer.fit(recorder, datamodule=datamodule)
        trainer.test(recorder, datamodule=datamodule, verbose=False)
        found[name] = {**recorder.seen, "calls": datamodule.calls}  # type: ignore[attr-defined]
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
