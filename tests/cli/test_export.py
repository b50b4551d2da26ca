"""`bnn export` and `bnn predict`."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bnn_lightning.cli.checkpoint import load_task
from bnn_lightning.deploy import load
from bnn_lightning.deploy.parity import Parity


def test_export_then_predict(trained: Any, bnn: Callable[..., Any], workplace: Path) -> None:
    done = bnn("export", f"ckpt={trained.final}", "out=net.bnn", "trainer.enable_progress_bar=false")
    assert done.code == 0, done.err
    assert "sums that differ: 0" in done.out
    assert "bnn predict packed=net.bnn images=FOLDER" in done.out
    network, task = load("net.bnn"), load_task(trained.final)
    images = torch.rand(5, network.info.in_channels, 8, 8)
    torch.testing.assert_close(network(images), task.backbone(images).detach(), rtol=1e-4, atol=1e-5)
    assert network.info.provenance["config"]["model"]["name"] == "mlp"

    folder = workplace / "pictures"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (10, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("no picture")
    assert bnn("predict", "packed=net.bnn", "images=pictures", "top=2", "out=out.json", "batch_size=2").code == 0
    found = json.loads(Path("out.json").read_text(encoding="utf-8"))
    assert [Path(row["image"]).name for row in found] == ["0.png", "1.png", "2.png"]
    assert all(len(row["classes"]) == 2 and row["probabilities"][0] >= row["probabilities"][1] for row in found)
    assert bnn("predict", "packed=net.bnn", f"images={folder / '1.png'}", "out=out.csv").code == 0
    with Path("out.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["class"] == found[1]["classes"][0]
    assert float(row["probability"]) == pytest.approx(found[1]["probabilities"][0], abs=1e-6)


def test_export_as_a_program_of_torch(trained: Any, bnn: Callable[..., Any], workplace: Path) -> None:
    done = bnn("export", f"ckpt={trained.final}", "out=net.pt2", "format=torch", "trainer.enable_progress_bar=false")
    assert done.code == 0, done.err
    images, backbone = torch.rand(3, 3, 8, 8), load_task(trained.final).backbone
    program = torch.export.load("net.pt2").module()
    torch.testing.assert_close(program(images), backbone(images).detach(), rtol=1e-4, atol=1e-5)


def test_export_as_c(trained: Any, bnn: Callable[..., Any], workplace: Path) -> None:
    done = bnn("export", f"ckpt={trained.final}", "out=net.c", "format=c", "trainer.enable_progress_bar=false")
    assert done.code == 0, done.err
    assert "int net_classify(const uint8_t pixels[192]);" in Path("net.h").read_text(encoding="utf-8")
    assert '#include "net.h"' in Path("net.c").read_text(encoding="utf-8")
    assert "bytes of constants" in done.out


def test_a_network_that_disagrees_is_not_written(
    trained: Any, bnn: Callable[..., Any], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Parity, "faults", ["3 sums of `fc2` differ."])
    done = bnn("export", f"ckpt={trained.final}", "out=net.bnn", "trainer.enable_progress_bar=false")
    assert done.code == 2
    assert "`net.bnn` was not written, the packed network disagrees: 3 sums of `fc2` differ." in done.err
    assert not Path("net.bnn").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("export", "ckpt=nothing.ckpt"), "no such file"),
        (("export", "ckpt=x.ckpt", "out=net.onnx"), "`out` must end in .bnn"),
        (("export", "ckpt=x.ckpt", "out=nowhere/net.bnn"), "there is no folder nowhere"),
        (("export", "ckpt=x.ckpt", "format=zip"), "`format` must be packed, torch or c, got zip"),
        (("export", "ckpt=x.ckpt", "images=0"), "`images` must be 1 or more"),
        (("predict", "packed=x.bnn", "images=nowhere"), "there is no file or folder nowhere"),
        (("predict", "packed=x.bnn", "images=.", "top=0"), "`top` must be 1 or more"),
        (("predict", "packed=x.bnn", "images=."), "holds no picture"),
    ],
)
def test_bad_input(words: tuple[str, ...], message: str, bnn: Callable[..., Any]) -> None:
    done = bnn(*words)
    assert done.code == 2
    assert message in done.err


def test_a_file_that_is_no_packed_network(bnn: Callable[..., Any], workplace: Path) -> None:
    (workplace / "x.bnn").write_bytes(b"BNNPACK\x01" + bytes(56))
    (workplace / "x.png").write_bytes(b"no picture")
    done = bnn("predict", "packed=x.bnn", "images=x.png")
    assert done.code == 2
    assert "is damaged in its first 64 bytes" in done.err


def test_a_float_network_is_not_packed(small: tuple[str, ...], bnn: Callable[..., Any], workplace: Path) -> None:
    trained = bnn("train", *small, "model.binary=false", "epochs=1", "hydra.run.dir=run")
    assert trained.code == 0, trained.err
    done = bnn("export", "ckpt=run/checkpoints/final.ckpt")
    assert done.code == 2
    assert "has no binary layer" in done.err
