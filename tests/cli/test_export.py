"""`bnn export` and `bnn predict`."""

import csv
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bnn_lightning.cli.summary import as_started
from bnn_lightning.data import Preparation
from bnn_lightning.data.image_io import prepare_picture
from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.deploy.export import c99, c99_operations, web
from bnn_lightning.deploy.export.formats import FORMATS
from bnn_lightning.deploy.format.container import read_container
from bnn_lightning.deploy.runtime import native
from bnn_lightning.deploy.validate.parity import Comparison, OtherClass, Parity
from bnn_lightning.models import create_backbone
from bnn_lightning.workflows import prediction
from bnn_lightning.workflows.checkpoint import load_backbone, load_task


def test_export_then_predict(trained: Any, bnn: Callable[..., Any], workplace: Path) -> None:
    done = bnn("export", f"ckpt={Path(trained.final).parents[1]}", "out=net.bnn", "trainer.enable_progress_bar=false")
    assert done.code == 0, done.err
    assert "sums that differ: 0" in done.out
    assert "bnn predict packed=net.bnn images=FOLDER" in done.out
    network, task = load("net.bnn"), load_task(trained.final)
    images = torch.rand(5, network.info.in_channels, 8, 8)
    torch.testing.assert_close(network(images), task.backbone(images).detach(), rtol=1e-4, atol=1e-5)
    assert network.info.preparation == Preparation(size=(8, 8), channels=3, resize=(8, 8))
    provenance = network.info.provenance
    assert provenance["config"]["model"]["name"] == "mlp"
    assert "root" not in provenance["config"]["data"]
    assert provenance["parity"]["correct"]["trained"] == provenance["parity"]["correct"]["packed"] > 0

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


def test_the_next_command_is_found_without_a_path_to_bnn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program, *words = shlex.split(as_started("bnn predict packed='a b.bnn' images=FOLDER"))
    assert Path(program).samefile(Path(sys.executable).with_name("bnn"))
    assert words == ["predict", "packed=a b.bnn", "images=FOLDER"]


def test_export_with_rounded_weights(
    trained: Any, bnn: Callable[..., Any], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = "trainer.enable_progress_bar=false"
    done = bnn("export", f"ckpt={trained.final}", "out=net.bnn", "rest=int8", quiet)
    assert done.code == 0, done.err
    assert "before rounding" in done.out
    assert load("net.bnn").info.provenance["parity"]["correct"].keys() == {"trained", "packed"}
    monkeypatch.setattr(Parity, "drop", 2.5)
    done = bnn("export", f"ckpt={trained.final}", "out=other.bnn", "rest=int8", "max_drop=2", quiet)
    assert done.code == 2
    assert "The accuracy falls by 2.50 points, more than 2." in done.err
    assert not Path("other.bnn").exists()


def test_export_with_a_stem_on_bytes(bnn: Callable[..., Any], workplace: Path, small: tuple[str, ...]) -> None:
    quiet = "trainer.enable_progress_bar=false"
    words = [word for word in small if not word.startswith(("model", "epochs"))]
    done = bnn("train", *words, "model=resnet20", "epochs=1", "data.num_train=16")
    assert done.code == 0, done.err
    (final,) = Path().rglob("final.ckpt")
    done = bnn("export", f"ckpt={final}", "out=net.bnn", "stem=u8", "max_drop=100", quiet)
    assert done.code == 0, done.err
    assert "rounded: 24 images" in done.out
    assert "in another class" in done.out
    network = load("net.bnn")
    assert network.graph.nodes[0].operation == "byte_conv2d"
    assert network.info.provenance["parity"]["correct"].keys() == {"trained", "packed"}
    done = bnn("evaluate", "packed=net.bnn")
    assert done.code == 0, done.err
    done = bnn("export", f"ckpt={final}", "format=c", "out=net.c", "stem=u8", quiet)
    assert done.code == 2
    assert "rest=fp32 and stem=u8 are forms of packed files; format=c takes rest=fp32 and stem=fp32." in done.err


def test_a_network_without_a_convolution_has_no_stem_on_bytes(
    trained: Any, bnn: Callable[..., Any], workplace: Path
) -> None:
    done = bnn("export", f"ckpt={trained.final}", "out=net.bnn", "stem=u8", "trainer.enable_progress_bar=false")
    assert done.code == 2
    assert "here `reshape` reads them. Take stem=fp32." in done.err
    assert not Path("net.bnn").exists()


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


def test_a_network_that_a_format_cannot_hold_is_refused_before_the_comparison(
    trained: Any, bnn: Callable[..., Any], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = {name: rule for name, rule in c99_operations.RULES.items() if name != "linear"}
    monkeypatch.setattr(c99, "RULES", rules)
    done = bnn("export", f"ckpt={trained.final}", "out=net.c", "format=c", "trainer.enable_progress_bar=false")
    assert done.code == 2
    assert "`linear` is not known in C" in done.err
    assert "parity" not in done.out
    assert list(workplace.iterdir()) == []


def test_help_lists_every_format(bnn: Callable[..., Any]) -> None:
    done = bnn("export", "--help")
    assert done.code == 0, done.err
    assert all(f"format={name}" in done.out and row.help in done.out for name, row in FORMATS.items())


def test_onnx_is_compared_in_onnxruntime(trained: Any, bnn: Callable[..., Any], workplace: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = bnn("export", f"ckpt={trained.final}", "format=onnx", "out=net.onnx", "trainer.enable_progress_bar=false")
    assert done.code == 0, done.err
    assert "parity: 24 images" in done.out
    assert "sums that differ" not in done.out  # which onnxruntime does not show
    assert "images one by one: largest difference" in done.out
    assert [path.name for path in workplace.iterdir()] == ["net.onnx"]
    images = torch.rand(5, 3, 8, 8)
    (logits,) = runtime.InferenceSession("net.onnx").run(None, {"images": images.numpy()})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(logits), load_backbone(trained.final)(images), atol=1e-4)


def test_onnx_that_disagrees_is_not_written(
    trained: Any, bnn: Callable[..., Any], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(Parity, "faults", ["Image 3: another class."])
    done = bnn("export", f"ckpt={trained.final}", "format=onnx", "out=net.onnx", "trainer.enable_progress_bar=false")
    assert done.code == 2
    assert "`net.onnx` was not written, onnxruntime disagrees: Image 3: another class." in done.err
    assert list(workplace.iterdir()) == []


def test_what_torch_cannot_export_is_one_clear_error(
    trained: Any, bnn: Callable[..., Any], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise torch._dynamo.exc.Unsupported("call_function looks at values\n\npages of advice")

    monkeypatch.setattr(torch.export, "export", refuse)
    done = bnn("export", f"ckpt={trained.final}", "format=torch", "out=net.pt2", "trainer.enable_progress_bar=false")
    assert done.code == 2
    assert "`net.pt2` was not written: torch cannot export the network: call_function looks at values\n" in done.err
    assert list(workplace.iterdir()) == []


def test_a_packed_file_is_scored_like_its_checkpoint(trained: Any, bnn: Callable[..., Any], workplace: Path) -> None:
    quiet = "trainer.enable_progress_bar=false"
    assert bnn("export", f"ckpt={trained.final}", "out=net.bnn", quiet).code == 0
    of_checkpoint = bnn("evaluate", f"ckpt={trained.final}", quiet).out
    of_file = bnn("evaluate", "packed=net.bnn", "data.batch_size=7", quiet)
    assert of_file.code == 0, of_file.err
    assert "net.bnn: mlp, packed, kernel " in of_file.out
    result = of_checkpoint[of_checkpoint.index("images: 24") :]
    assert result in of_file.out
    elsewhere = bnn("evaluate", "packed=net.bnn", "data=synthetic", "data.image_size=8", "data.num_test=9", quiet)
    assert "images: 9" in elsewhere.out, elsewhere.err


def test_a_class_that_hangs_on_rounding_is_accepted_on_demand(
    trained: Any, bnn: Callable[..., Any], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Comparison.update

    def disagreeing(self: Comparison, images: torch.Tensor, labels: torch.Tensor) -> None:
        update(self, images, labels)
        self.parity.others.append(OtherClass(index=3, simulated=0, packed=1, margin=0.03))

    monkeypatch.setattr(Comparison, "update", disagreeing)
    words = ("export", f"ckpt={trained.final}", "out=net.bnn", "trainer.enable_progress_bar=false")
    done = bnn(*words)
    assert done.code == 2
    assert "Image 3: class 0 simulated, 1 packed, with a margin of 0.03." in done.err
    assert "`margin=` accepts larger margins" in done.err
    assert not Path("net.bnn").exists()
    done = bnn(*words, "margin=0.05")
    assert done.code == 0, done.err
    assert "image 3: 0 or 1, a tie by 0.03" in done.out
    assert load("net.bnn").info.provenance["parity"]["margin"] == 0.05
    done = bnn(*words, "margin=-1")
    assert done.code == 2
    assert "`margin` must be a number from 0 on, got -1" in done.err


@pytest.mark.parametrize(
    "words, message",
    [
        ("packed=net.bnn ckpt=net.ckpt", "not both"),
        ("packed=nowhere.bnn", "nowhere.bnn"),
        ("packed=net.bnn", "does not say which data it was exported with"),
        ("packed=net.bnn model=mlp data=digits", "says itself which network it is"),
        ("packed=net.bnn data=cifar100", "is a network with num_classes=10"),
    ],
)
def test_packed_files_that_cannot_be_scored(words: str, message: str, bnn: Callable[..., Any], workplace: Path) -> None:
    network = create_backbone("mlp", num_classes=10, in_channels=3, image_size=32, width=32).eval()
    save(pack(network), workplace / "net.bnn", PackedInfo("mlp", in_channels=3, image_size=32))
    done = bnn("evaluate", *words.split(), "trainer.enable_progress_bar=false")
    assert done.code == 2
    assert message in done.err


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
        (("export", "ckpt=x.ckpt", "format=zip"), "`format` must be packed, torch, onnx, c"),
        (("export", "ckpt=x.ckpt", "format=c", "rest=int8"), "format=c takes rest=fp32"),
        (("export", "ckpt=x.ckpt", "rest=fp16"), "`rest` must be fp32 or int8, got fp16"),
        (("export", "ckpt=x.ckpt", "images=0"), "`images` must be 1 or more"),
        (("predict", "packed=x.bnn", "images=nowhere"), "there is no file or folder nowhere"),
        (("predict", "packed=x.bnn", "images=.", "top=0"), "`top` must be 1 or more"),
        (("predict", "packed=x.bnn", "images=."), "holds no picture"),
        (("predict", "packed=x.bnn", "images=.", "resize=1e9"), "`resize` must lie between 1 and 16, got 1000000000.0"),
        (("predict", "packed=x.bnn", "images=.", "resize=nan"), "`resize` must lie between 1 and 16, got nan"),
        (("predict", "packed=x.bnn", "images=.", "out=x.txt"), "`out` must end in .csv or .json, got x.txt"),
        (("predict", "packed=x.bnn", "images=.", "out=nowhere/x.csv"), "`out`: there is no folder nowhere"),
        (("evaluate", "packed=x.bnn"), "`packed`: there is no file x.bnn; `bnn export"),
        (("export", "ckpt=x.ckpt", "max_drop=nan"), "`max_drop` must lie between 0 and 100 percentage points, got nan"),
        (("export", "ckpt=x.ckpt", "max_drop=-1"), "`max_drop` must lie between 0 and 100"),
        (("export", "ckpt=x.ckpt", "format=c", "out=my-net.c"), "must be letters, digits and underscores"),
        (("export", "ckpt=x.ckpt", "format=c", "out=stdint.c"), "must not be stdint"),
        (("benchmark", "layers=true", "packed=x.bnn"), "`layers=true` measures layers of its own"),
    ],
)
def test_bad_input(words: tuple[str, ...], message: str, bnn: Callable[..., Any]) -> None:
    done = bnn(*words)
    assert done.code == 2
    assert message in done.err


def test_a_file_that_is_no_packed_network(bnn: Callable[..., Any], workplace: Path) -> None:
    (workplace / "x.bnn").write_bytes(b"BNNPACK\x04" + bytes(56))
    (workplace / "x.png").write_bytes(b"no picture")
    done = bnn("predict", "packed=x.bnn", "images=x.png")
    assert done.code == 2
    assert "is damaged in its first 64 bytes" in done.err


@pytest.fixture
def packed(workplace: Path) -> Path:
    """A packed network that was never trained, for gray images of 8 pixels, in a border of 1."""
    info = PackedInfo(
        "mlp",
        in_channels=1,
        image_size=8,
        class_names=("no", "yes"),
        preparation=Preparation(size=(8, 8), channels=1, resize=(7, 7), interpolation="bicubic", border=1),
    )
    network = create_backbone("mlp", num_classes=2, in_channels=1, image_size=8, width=8, dropout=0.0)
    save(pack(network.eval()), "net.bnn", info)
    return workplace / "net.bnn"


def test_prediction_prepares_pictures_as_the_file_says(
    packed: Path, bnn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def watched(path: str) -> Any:
        network = load(path)
        network.register_forward_pre_hook(lambda module, images: seen.append(images[0]))
        return network

    monkeypatch.setattr(prediction, "read_packed", watched)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("a.png")
    preparation = load(packed).info.preparation
    assert preparation is not None
    for words, resize in (((), (7, 7)), (("resize=1.5",), (9, 9))):
        assert bnn("predict", "packed=net.bnn", "images=a.png", *words).code == 0
        expected = prepare_picture(pixels, replace(preparation, resize=resize))
        assert torch.equal(seen.pop()[0], torch.from_numpy(expected).permute(2, 0, 1))
    assert bnn("predict", "packed=net.bnn", "images=a.png", "resize=16").code == 0


def test_a_file_that_does_not_say_how_pictures_are_prepared(bnn: Callable[..., Any], packed: Path) -> None:
    network = create_backbone("mlp", num_classes=2, in_channels=1, image_size=8, width=8, dropout=0.0)
    save(pack(network.eval()), "old.bnn", PackedInfo("mlp", 1, 8))
    assert "preparation" not in read_container("old.bnn").header["info"]
    Image.new("L", (8, 8)).save("a.png")
    done = bnn("predict", "packed=old.bnn", "images=a.png")
    assert done.code == 2
    assert all(word in done.err for word in ("old.bnn", "resize=1.0"))
    assert bnn("predict", "packed=old.bnn", "images=a.png", "resize=1.0").code == 0


@pytest.mark.parametrize("on_damaged, code", [("error", 2), ("skip", 0)])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_files_that_are_no_pictures_never_cost_the_rest(
    on_damaged: str, code: int, batch_size: int, packed: Path, bnn: Callable[..., Any]
) -> None:
    Path("pictures/.ipynb_checkpoints").mkdir(parents=True)
    for name in ("a", "c", "e", ".ipynb_checkpoints/a", "._a"):
        Image.new("L", (8, 8)).save(f"pictures/{name}.png")
    Path("pictures/b.png").write_bytes(b"no picture")
    Path("pictures/d.tif").write_bytes(b"II*\0")
    words = ("images=pictures", "out=out.csv", f"on_damaged={on_damaged}", f"batch_size={batch_size}")
    done = bnn("predict", "packed=net.bnn", *words)
    assert done.code == code
    assert all(word in done.err for word in ("pictures/b.png", "pictures/d.tif", "2 of 5"))
    with Path("out.csv").open(encoding="utf-8") as file:
        assert [row["image"] for row in csv.DictReader(file)] == [f"pictures/{name}.png" for name in "ace"]


@pytest.mark.skipif(not (web.MODULE.is_file() and native.LIBRARY.exists()), reason="needs the compiled module")
def test_export_as_a_web_page(trained: Any, bnn: Callable[..., Any], workplace: Path) -> None:
    words = ("export", f"ckpt={trained.final}", "format=web", "rest=int8", "trainer.enable_progress_bar=false")
    done = bnn(*words, "out=page")
    assert done.code == 0, done.err
    assert sorted(path.name for path in Path("page").iterdir()) == ["bnn.wasm", "index.html", "model.bnn"]
    assert "-m http.server -d page" in done.out
    assert read_container("page/model.bnn").header["rest"] == "int8"
    Path("page", "notes.txt").write_text("mine", encoding="utf-8")
    done = bnn(*words, "out=page")
    assert done.code == 2
    assert "notes.txt" in done.err
    assert "packed:" not in done.out
    done = bnn(*words, "out=page/notes.txt")
    assert done.code == 2
    assert Path("page", "notes.txt").read_text(encoding="utf-8") == "mine"
    done = bnn(*words, "out=nowhere/page")
    assert done.code == 2
    assert "there is no folder nowhere" in done.err
