"""The settings of torch in a process never change the results of packed networks."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.deploy.export.c99 import write_c99
from bnn_lightning.deploy.export.onnx import write_onnx
from bnn_lightning.deploy.export.torch_program import write_torch_program
from bnn_lightning.deploy.runtime.repack import Repacker
from bnn_lightning.models import create_backbone
from tests.deploy.test_convert import settled
from tests.small_networks import without_repeats

DTYPES = (torch.float64, torch.bfloat16, torch.float16)


@torch.no_grad()
def check_other_defaults(path: Path, packed: nn.Module, images: Tensor) -> None:
    """A packed network, and what was loaded before and after another dtype became the default, give the same bits."""
    before, wanted, simulated = load(path), load(path)(images), packed(images)
    pixels = (images * 255).round().to(torch.uint8)
    of_pixels = before(pixels)
    try:
        for dtype in DTYPES:
            torch.set_default_dtype(dtype)
            assert torch.equal(before(images), wanted)  # planned under the first of them
            assert torch.equal(packed(images), simulated)
            after = load(path)
            assert torch.equal(after(images), wanted)
            assert torch.equal(after(pixels), of_pixels)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


def network_and_images() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    images = torch.rand(3, 3, 32, 32)
    return settled(create_backbone("resnet20", num_classes=7, image_size=32), images), images


@pytest.fixture(scope="module")
def resnet20(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    network, images = network_and_images()
    file = tmp_path_factory.mktemp("resnet20") / "net.bnn"
    save(pack(network, images), file, PackedInfo("net", 3, images.shape[2]))
    return file, images


@pytest.mark.parametrize("stem", ["fp32", pytest.param("u8", marks=pytest.mark.slow)])
def test_packed_saved_and_loaded_under_other_defaults(stem: Any, tmp_path: Path) -> None:
    network, images = network_and_images()
    info = PackedInfo("net", 3, images.shape[2])
    save(pack(network, images), tmp_path / "net.bnn", info, stem=stem)
    wanted = load(tmp_path / "net.bnn")(images)
    for dtype in DTYPES:
        torch.set_default_dtype(dtype)
        packed = pack(network)
        assert packed.report.left == {}
        save(packed, tmp_path / "other.bnn", info, stem=stem)
        assert (tmp_path / "other.bnn").read_bytes() == (tmp_path / "net.bnn").read_bytes()
        assert torch.equal(load(tmp_path / "other.bnn")(images), wanted)


def test_another_default_device(tmp_path: Path) -> None:
    network, images = network_and_images()
    packed = pack(network, images)
    save(packed, tmp_path / "net.bnn", PackedInfo("net", 3, images.shape[2]))
    before = load(tmp_path / "net.bnn")
    with torch.no_grad():
        wanted, simulated = load(tmp_path / "net.bnn")(images), packed(images)
        torch.set_default_device("meta")
        assert torch.equal(before(images), wanted)
        assert torch.equal(load(tmp_path / "net.bnn")(images), wanted)
        assert torch.equal(packed(images), simulated)
        save(pack(network), tmp_path / "other.bnn", PackedInfo("net", 3, images.shape[2]))
    assert (tmp_path / "other.bnn").read_bytes() == (tmp_path / "net.bnn").read_bytes()


def test_defaults_that_another_thread_sets_meanwhile(resnet20: tuple[Path, Tensor]) -> None:
    path, images = resnet20
    wanted, done = load(path)(images), threading.Event()

    def set_again_and_again() -> None:
        while not done.is_set():
            for dtype in (*DTYPES, torch.float32):
                torch.set_default_dtype(dtype)

    thread = threading.Thread(target=set_again_and_again)
    thread.start()
    try:
        for _ in range(5):
            network = load(path)
            for _ in range(5):
                assert torch.equal(network(images), wanted)
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("number", [1, 3])
def test_autocast_does_not_reach_into_a_plan(resnet20: tuple[Path, Tensor], number: int) -> None:
    path, images = resnet20
    wanted = load(path)(images[:number])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(load(path)(images[:number]), wanted)


class Holding(pl.LightningModule):
    """Asks a packed network that is no part of it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)
        self.held = [load(path)]
        self.logits: list[Tensor] = []

    def validation_step(self, batch: Tensor) -> None:
        self.logits.append(self.held[0](batch))


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_the_precision_of_a_trainer_around_it(resnet20: tuple[Path, Tensor], precision: Any, tmp_path: Path) -> None:
    path, images = resnet20
    images = (images * 255).round().to(torch.uint8)
    wanted, module = load(path)(images), Holding(path)
    off = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", precision=precision, default_root_dir=tmp_path, barebones=False, **off)
    trainer.validate(module, DataLoader(images, batch_size=3), verbose=False)  # type: ignore[arg-type]
    assert torch.equal(module.logits[0], wanted)


def states() -> tuple[list[int], object, list[int]]:
    return torch.get_rng_state().tolist(), random.getstate(), list(np.random.get_state()[1])  # noqa: NPY002


def test_nothing_is_drawn_from_the_generators_of_the_process(tmp_path: Path) -> None:
    network = without_repeats(create_backbone("resnet20", num_classes=3, image_size=16, width=4)).eval()
    image, info, file = torch.rand(2, 3, 16, 16), PackedInfo("net", 3, 16), tmp_path / "net.bnn"
    before = states()
    packed = pack(network)
    packed(image)
    save(packed, file, info, stem="u8", rest="int8")
    load(file)(image)
    packed.run_layers(image)
    Repacker(network)()
    assert states() == before
    write_onnx(network, tmp_path / "net.onnx")
    write_torch_program(packed, tmp_path / "net.pt2")
    save(packed, file, info)
    write_c99(file, tmp_path / "net.c")
    assert states() == before
