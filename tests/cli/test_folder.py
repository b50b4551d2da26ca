"""`data=folder`: pictures of one's own, from training to a packed file, a prediction and a report."""

import csv
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import TrivialAugmentWide

from bnn_lightning.data import FolderDataModule, RandAugment
from bnn_lightning.data.auto_augment import AutoAugment
from bnn_lightning.deploy import load
from bnn_lightning.workflows import prediction

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from kinds import kinds

Bnn = Callable[..., Any]
COLORS = {"blue": (30, 60, 210), "green": (40, 180, 60), "red": (200, 40, 40)}
SMALL = (
    *("data=folder", "data.root=own", "data.num_workers=0", "data.batch_size=8", "model=resnet20", "model.width=4"),
    *("epochs=1", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "task.channels_last=false"),
    "trainer.enable_model_summary=false",
)


def write(root: Path, parts: dict[str, int]) -> Path:
    """Write pictures of three colors; of the first class there are half as many."""
    random = np.random.default_rng(0)
    for part, number in parts.items():
        for name, color in COLORS.items():
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(number // 2 if name == "blue" else number):
                pixels = np.clip(np.array(color) + random.normal(0, 40, (30 + i, 40 - i, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return root


@pytest.fixture
def own(workplace: Path) -> Path:
    root = write(workplace / "own", {"train": 8, "validation": 4})
    (root / "train" / ".ipynb_checkpoints").mkdir()
    (root / "validation" / ".ipynb_checkpoints").mkdir()
    for name, (data, _) in kinds().items():
        (root / "validation" / "red" / name).write_bytes(data)
    return root


@pytest.mark.parametrize("channels, size", [(1, [20, 28]), pytest.param(3, 24, marks=pytest.mark.slow)])
def test_from_training_to_a_prediction_and_a_report(
    channels: int, size: Any, own: Path, bnn: Bnn, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (f"data.in_channels={channels}", f"data.image_size={str(size).replace(' ', '')}", "data.crop_ratio=0.8")
    done = bnn("train", *SMALL, *words, "class_weights=balanced", "name=own")
    assert done.code == 0, done.err
    (run,) = Path("runs/own").iterdir()
    done = bnn("evaluate", f"ckpt={run}", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false")
    assert done.code == 0, done.err
    number = 10 + len(kinds())
    assert f"images: {number}" in done.out
    done = bnn("export", f"ckpt={run}", "out=net.bnn", "trainer.enable_progress_bar=false")
    assert done.code == 0, done.err
    done = bnn("evaluate", "packed=net.bnn", "data.root=own", "trainer.enable_progress_bar=false")
    assert done.code == 0, done.err
    assert f"images: {number}" in done.out

    network = load("net.bnn")
    assert network.info.class_names == tuple(COLORS)
    assert network.info.shape == (channels, *(size if isinstance(size, list) else (size, size)))
    data = FolderDataModule("own", image_size=size, in_channels=channels, crop_ratio=0.8, num_workers=0)
    data.setup("test")
    assert data.preparation == network.info.preparation
    seen: list[torch.Tensor] = []
    network.register_forward_pre_hook(lambda module, images: seen.append(images[0]))
    monkeypatch.setattr(prediction, "read_packed", lambda path: network)
    assert bnn("predict", "packed=net.bnn", "images=own/validation", "out=out.json").code == 0
    found = json.loads(Path("out.json").read_text(encoding="utf-8"))
    # In the same order: classes, and files in each, are sorted. Every picture is shown as evaluation shows it.
    shown = torch.cat([batch.images for batch in data.test_dataloader()])
    assert torch.equal(torch.cat(seen), shown)
    with torch.inference_mode():
        classes = network(shown).argmax(1).tolist()
    assert [row["classes"][0] for row in found] == [network.info.class_names[c] for c in classes]

    for part in ("train", "validation"):
        (own / part / "red").rename(own / part / "scarlet")
    for words in (
        *(("evaluate", f"ckpt={run}"), ("evaluate", "packed=net.bnn", "data.root=own"), ("report", f"run={run}")),
        ("export", f"ckpt={run}", "out=other.bnn"),
    ):
        done = bnn(*words, "trainer.accelerator=cpu", "trainer.enable_progress_bar=false")
        assert done.code == 2, done.err
        assert all(name in done.err for name in ("own", "red", "scarlet")), done.err
    assert not Path("other.bnn").exists()
    for part in ("train", "validation"):
        (own / part / "scarlet").rename(own / part / "red")

    done = bnn("report", f"run={run}", "latency=false", "trainer.enable_progress_bar=false")
    assert done.code == 0, done.err
    assert (run / "report.html").stat().st_size > 10_000


def test_a_split_of_the_training_pictures(bnn: Bnn, workplace: Path) -> None:
    write(workplace / "own", {"train": 8})
    done = bnn("train", *SMALL, "data.image_size=16", "data.val_fraction=0.25", "name=own", "class_weights=[1,2,3]")
    assert done.code == 0, done.err
    (line,) = (line for line in done.out.splitlines() if line.startswith("test accuracy"))
    assert "`own`" in line
    assert "`test`" in line
    assert "val accuracy" in done.out
    (metrics,) = Path("runs").rglob("metrics.csv")
    with metrics.open(encoding="utf-8") as file:
        names = next(csv.reader(file))
    assert "val/acc" in names


@pytest.mark.parametrize(
    "words, parts",
    [
        (("data.root=nowhere",), ("data.root", "nowhere/train")),
        (("data.in_channels=2",), ("data.in_channels", "1 or 3", "2")),
        (("data.num_classes=4",), ("data.num_classes=3", "blue, green, red", "4")),
        (("data.val_fraction=0.1",), ("val_fraction", "own/validation", "0.1")),
        (("data.image_size=[8]",), ("image_size", "[8]")),
        (("data.image_size=0",), ("image_size", "0")),
        (("class_weights=[1,2]",), ("class_weights", "3 numbers", "[1.0, 2.0]")),
        (("class_weights=even",), ("class_weights", "balanced", "even")),
        (("class_weights=[1,-2,1]",), ("class_weights", "-2.0")),
    ],
)
def test_what_cannot_be_is_refused(words: tuple[str, ...], parts: tuple[str, ...], own: Path, bnn: Bnn) -> None:
    done = bnn("train", *SMALL, "data.image_size=16", *words)
    assert done.code == 2
    assert all(part in done.err for part in parts), done.err


def test_folders_that_do_not_fit_are_named(own: Path, bnn: Bnn) -> None:
    (own / "validation" / "green").rename(own / "validation" / "verde")
    done = bnn("train", *SMALL, "data.image_size=16")
    assert done.code == 2
    assert all(part in done.err for part in ("own/validation", "lacks green", "verde"))
    (own / "validation").rename(own / "val")
    (own / "validation").mkdir()
    done = bnn("train", *SMALL, "data.image_size=16")
    assert done.code == 2
    assert "validation" in done.err
    for name in ("val", "validation"):
        shutil.rmtree(own / name)
    done = bnn("train", *SMALL, "data.image_size=16")
    assert done.code == 2
    assert "data.val_fraction" in done.err


def test_a_class_without_held_out_pictures_has_an_empty_folder(tmp_path: Path) -> None:
    root = write(tmp_path, {"train": 4, "val": 2})
    for part, message in (("val", None), ("train", "every class needs one")):
        for file in (root / part / "green").iterdir():
            file.unlink()
        data = FolderDataModule(root, image_size=8, batch_size=4, num_workers=0)
        with nullcontext() if message is None else pytest.raises(FileNotFoundError, match=message):
            data.setup("fit")
            labels = torch.cat([batch.labels for batch in data.val_dataloader()])
            assert labels.unique().tolist() == [0, 2]


@pytest.mark.parametrize("auto_augment", [RandAugment(probability=1.0), TrivialAugmentWide()])
def test_gray_pictures_are_augmented_too(auto_augment: AutoAugment, tmp_path: Path) -> None:
    root = write(tmp_path, {"train": 8, "val": 2})
    options = {"image_size": [12, 16], "batch_size": 20, "num_workers": 0, "auto_augment": auto_augment}
    data = FolderDataModule(root, in_channels=1, **options)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert batch.images.shape == (20, 1, 12, 16)


def test_transforms_of_torchvision_from_a_file_of_ones_own(bnn: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "conf" / "auto_augment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "_target_: torchvision.transforms.v2.Compose\ntransforms:\n"
        "  - {_target_: torchvision.transforms.v2.RandomRotation, degrees: 10}\n"
        "  - {_target_: torchvision.transforms.v2.ColorJitter, brightness: 0.2}\n"
    )
    run = tmp_path / "run"
    options = ["model=mlp", "data=synthetic", "epochs=1", "warmup_epochs=0", "trainer.limit_train_batches=1"]
    own = ["-cd", str(tmp_path / "conf"), "auto_augment@data.auto_augment=mine"]
    assert bnn("train", *own, *options, f"hydra.run.dir={run}").code == 0
    assert bnn("evaluate", f"ckpt={run}").code == 0
