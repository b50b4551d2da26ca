"""Every experiment and published pair takes a step, with and without SKD, on small files in the formats of its data."""

import copy
import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from bnn_lightning.cli.config_paths import list_options
from bnn_lightning.cli.schema import read_settings
from bnn_lightning.cli.train import training_arguments
from bnn_lightning.data import CIFAR10DataModule, CIFAR100DataModule
from bnn_lightning.workflows.old_names import OPTIONS
from bnn_lightning.workflows.settings import TrainSettings
from bnn_lightning.workflows.training import TrainingRun, prepare

sys.path.insert(0, str(Path(__file__).parent))
from runs import words_of_run

Composed = Callable[..., dict[str, Any]]

SMALL = {
    "cifar100": ["model.width=4", "data.verify=false"],
    "mnist": ["model.width=16", "data.verify=false"],
    "cifar10": ["model.width=4", "data.verify=false"],
    "imagenet": ["model.width=4", "data.num_classes=2", "data.image_size=64", "data.num_workers=0"],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    (root / CIFAR10DataModule.subfolder).mkdir()
    for name in CIFAR10DataModule.checksums:
        entry = {"data": rng.integers(256, size=(10, 3072), dtype=np.uint8), "labels": list(range(10))}
        (root / CIFAR10DataModule.subfolder / name).write_bytes(pickle.dumps(entry, protocol=2))
    (root / CIFAR100DataModule.subfolder).mkdir()
    for name in CIFAR100DataModule.checksums:
        entry = {"data": rng.integers(256, size=(10, 3072), dtype=np.uint8), "fine_labels": list(range(10))}
        (root / CIFAR100DataModule.subfolder / name).write_bytes(pickle.dumps(entry, protocol=2))
    (root / "MNIST" / "raw").mkdir(parents=True)
    for part in ("train", "t10k"):
        images = rng.integers(256, size=(10, 28, 28), dtype=np.uint8)
        header = struct.pack(">4I", 0x803, 10, 28, 28)
        (root / f"MNIST/raw/{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = struct.pack(">2I", 0x801, 10) + bytes(range(10))
        (root / f"MNIST/raw/{part}-labels-idx1-ubyte").write_bytes(labels)
    for part in ("train", "val"):
        for wnid in ("n01", "n02"):
            folder = root / "imagenet" / part / wnid
            folder.mkdir(parents=True)
            for i in range(4):
                Image.fromarray(rng.integers(256, size=(70, 80, 3), dtype=np.uint8)).save(folder / f"{i}.JPEG")
    return root


RUNS = [*list_options("experiment"), *(old.partition("=")[2] for old in OPTIONS if old.startswith("experiment="))]


def random_teachers(distill: dict[str, Any]) -> list[str]:
    """Return overrides that put a ResNet-18 of torchvision with random weights in the place of every teacher."""
    assistants = {f"assistants.{name}": node for name, node in distill.get("assistants", {}).items()}
    mounted = {key: distill[key] for key in ("teacher", "main") if key in distill} | assistants
    places = [f"distill.{place}" for place, node in mounted.items() if node is not None]
    network = ("network.name=resnet18", "network.pretrained=false")
    return [w for place in places for w in (f"teacher@{place}=torchvision", *(f"{place}.{word}" for word in network))]


def prepared(config: DictConfig) -> TrainingRun:
    plain = training_arguments(config)["config"]
    return prepare(read_settings(TrainSettings, config), plain, plain)


@pytest.mark.parametrize("distill", ["its own", "none"])
@pytest.mark.parametrize("experiment", RUNS)
def test_experiment_takes_a_step(
    experiment: str, distill: str, root: Path, tmp_path: Path, composed: Composed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*words_of_run(experiment), *([] if distill == "its own" else ["distill=none"]), "debug=fast"]
    if distill == "its own":
        words += random_teachers(composed(*words_of_run(experiment), "init_from=x")["distill"])
    data = next(name for name in SMALL if name in experiment)
    words += ["model.depths=[1]"] if "bnext_" in experiment else []
    words += [*SMALL[data], f"data.root={root}", "data.batch_size=4", "data.eval_batch_size=4"]
    words += ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.enable_model_summary=false"]
    config = OmegaConf.create(composed(*words, "init_from=null"))
    run = prepared(config)
    before = copy.deepcopy(dict(run.task.backbone.named_parameters()))
    run.trainer.fit(run.task, datamodule=run.datamodule)
    loss = run.trainer.callback_metrics["train/loss"]
    assert torch.isfinite(loss)
    terms = {name.removeprefix("train/loss_") for name in run.trainer.callback_metrics if "train/loss_" in name}
    own = {term for term, weight in run.task.distiller.weights.items() if weight}
    assert terms - {"step"} == ({"hard"} if distill == "none" else own)
    for name, new in run.task.backbone.named_parameters():
        if new.dim() > 1 and ".gate." not in name:  # of few units in a gate, all may be off for a batch
            assert not torch.equal(before[name], new), name


@pytest.mark.parametrize(
    "experiment",
    [
        "cifar10_resnet20_adabin",
        "cifar10_resnet18_recu",
        "cifar10_resnet20_dorefa",
        "cifar10_vgg_small_ternary",
    ],
)
def test_an_epoch_of_a_recipe_resumes_exactly(
    experiment: str, root: Path, tmp_path: Path, composed: Composed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*words_of_run(experiment), *SMALL["cifar10"], f"data.root={root}", "data.batch_size=8", "logger=csv"]
    words += ["epochs=2", "warmup_epochs=0", "trainer.limit_train_batches=3", "trainer.accelerator=cpu", "test=false"]
    words += ["trainer.enable_progress_bar=false", "trainer.enable_model_summary=false", "callbacks=none"]

    def trained(folder: str, *more: str) -> dict[str, torch.Tensor]:
        run = prepared(OmegaConf.create(composed(*words, f"paths.run_dir={tmp_path / folder}", *more)))
        start = None if run.start is None else str(run.start.path)
        run.trainer.fit(run.task, datamodule=run.datamodule, ckpt_path=start)
        assert torch.isfinite(run.trainer.callback_metrics["train/loss"])
        return run.task.state_dict()

    whole = trained("whole")
    first = trained("part", "trainer.max_epochs=1")
    resumed = trained("part", "trainer.max_epochs=2", f"ckpt_path={tmp_path / 'part'}")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert any(not torch.equal(first[name], resumed[name]) for name in whole)
