"""Names of the zoo wherever a verb takes a file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import bnn_lightning
from bnn_lightning import zoo
from bnn_lightning.data import DigitsDataModule
from bnn_lightning.workflows.checkpoint import read_checkpoint
from bnn_lightning.workflows.weights_file import read_weights, write_weights
from bnn_lightning.zoo import receipts
from bnn_lightning.zoo.download import checksum

Bnn = Callable[..., Any]
QUIET = "trainer.enable_progress_bar=false"


@pytest.fixture
def small_zoo(trained: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo with the weights of a small run, called `tiny`, and no packed file that could be had."""
    folder = tmp_path_factory.mktemp("zoo")
    write_weights(read_checkpoint(trained.final), folder / "tiny.safetensors")
    size, sha256 = (folder / "tiny.safetensors").stat().st_size, checksum(folder / "tiny.safetensors")
    files = {"packed": {"size": 2_000_000, "sha256": "0" * 64}, "weights": {"size": size, "sha256": sha256}}
    facts = {"network": "mlp", "data": "synthetic", "correct": 1, "images": 24, "epochs": 2, "seed": 1}
    texts = {"recipe": "bnn train model=mlp seed=1", "commit": "0" * 40, "license": "CC0"}
    (folder / "tiny.json").write_text(json.dumps({"name": "tiny", **facts, **texts, "files": files}))
    monkeypatch.setattr(receipts, "FOLDER", folder)
    monkeypatch.delenv("BNN_ZOO_URL", raising=False)
    return folder


def test_a_picture_of_a_digit(bnn: Bnn, workplace: Path) -> None:
    data = DigitsDataModule(image_size=8)
    data.setup("test")
    images, labels = next(data.batches(data.test_dataloader()))
    Image.fromarray((images[0, 0] * 255).numpy().astype(np.uint8)).save("photo.png")
    done = bnn("predict", "packed=zoo:digits_mlp", "images=photo.png")
    assert done.code == 0, done.err
    assert done.out.split()[:2] == ["photo.png", str(int(labels[0]))]


def test_the_packed_file_scores_what_its_receipt_says(bnn: Bnn) -> None:
    done = bnn("evaluate", "packed=zoo:digits_mlp", QUIET)
    assert done.code == 0, done.err
    assert f"top-1:  {zoo.receipt('digits_mlp').accuracy:.2f} %" in done.out


def test_the_verb_prints_the_table(bnn: Bnn) -> None:
    assert "digits_mlp" in bnn("zoo").out
    assert bnn("zoo", "digits_mlp").code == 2


def test_weights_are_the_checkpoint_without_paths_and_training_state(trained: Any, small_zoo: Path) -> None:
    before, after = read_checkpoint(trained.final), read_weights(zoo.weights_file("tiny"))
    assert str(trained.folder.parent) not in (small_zoo / "tiny.safetensors").read_bytes().decode("latin-1")
    assert after["state_dict"].keys() == before["state_dict"].keys()
    assert all(torch.equal(after["state_dict"][name], tensor) for name, tensor in before["state_dict"].items())
    images = torch.rand(4, 3, 8, 8)
    with torch.no_grad():
        tasks = [bnn_lightning.load_task(path) for path in ("zoo:tiny", trained.final)]
        assert torch.equal(tasks[0](images), tasks[1](images))


def test_a_run_starts_from_the_weights(small: tuple[str, ...], small_zoo: Path, bnn: Bnn) -> None:
    done = bnn("train", *small, "init_from=zoo:tiny", "optimizer.lr=0", "hydra.run.dir=own", "test=false")
    assert done.code == 0, done.err
    before, after = (
        read_checkpoint(path)["state_dict"] for path in (zoo.weights_file("tiny"), "own/checkpoints/final.ckpt")
    )
    assert torch.equal(before["backbone.fc2.weight"], after["backbone.fc2.weight"])


def test_evaluated_and_exported_by_name(trained: Any, small_zoo: Path, bnn: Bnn, workplace: Path) -> None:
    scored = [bnn("evaluate", f"ckpt={ckpt}", QUIET).out.split("images:")[1] for ckpt in ("zoo:tiny", trained.final)]
    assert scored[0] == scored[1]
    done = bnn("export", "ckpt=zoo:tiny", QUIET)
    assert done.code == 0, done.err
    assert (workplace / "tiny.bnn").is_file()
    assert {path.suffix for path in small_zoo.iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("evaluate", "packed=zoo:tiny"), "BNN_ZOO_URL"),
        (("evaluate", "packed=zoo:tinny"), "Did you mean `zoo:tiny`?"),
        (("evaluate", "ckpt=zoo:tinny"), "Did you mean `zoo:tiny`?"),
        (("predict", "packed=zoo:tinny", "images=."), "Did you mean `zoo:tiny`?"),
        (("profile", "ckpt=zoo:tinny"), "Did you mean `zoo:tiny`?"),
        (("benchmark", "packed=zoo:tinny"), "Did you mean `zoo:tiny`?"),
        (("train", "init_from=zoo:tinny"), "Did you mean `zoo:tiny`?"),
        (("train", "ckpt_path=zoo:tiny"), "init_from=zoo:tiny"),
    ],
)
def test_what_cannot_be_had_is_one_error(
    words: tuple[str, ...], said: str, small: tuple[str, ...], small_zoo: Path, bnn: Bnn, workplace: Path
) -> None:
    Image.new("L", (8, 8)).save("a.png")
    done = bnn(*words, *(small if words[0] == "train" else ()))
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}", b"\xff" * 64])
def test_a_damaged_weights_file_is_one_error(content: bytes, bnn: Bnn, workplace: Path) -> None:
    Path("net.safetensors").write_bytes(content)
    done = bnn("evaluate", "ckpt=net.safetensors")
    assert done.code == 2
    assert "net.safetensors" in done.err
