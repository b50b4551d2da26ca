"""Mistakes of users and damaged files: one sentence that names the value, exit code 2, no traceback."""

import copy
import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bnn_lightning.workflows.checkpoint import CONFIG_KEY

Bnn = Callable[..., Any]

WORDS = {
    "seed=-1": "`seed` must lie between 0 and 4294967295, got -1",
    "seed=4294967296": "got 4294967296",
    "optimizer.lr=1e38": "`lr` must be finite and at most 1e+30, for updates in float32, got 1e+38",
    "optimizer.lr=inf": "got inf",
    "param_groups.weight_decay=1e39": "`weight_decay` must be finite and at most 1e+30",
    "--epochs=3": "`--epochs=3`: keys have no dashes, as in `epochs=3`",
    "callbacks=[default, ema]": "`callbacks=[default,`: a list is one word",  # without quotes the shell makes two words
    "callbacks={}": "`callbacks` takes the name of an option",
    "model.input_binarizer=SignSTE": "`input_binarizer` must be a factory",
    "binarizer@model.input_binarizer=xnor": "`input_binarizer` must make an InputBinarizer, got XNORScale",
}


def one_sentence(done: Any) -> str:
    """Return the message of a verb that refused its input."""
    assert done.code == 2
    assert "Traceback" not in done.out + done.err
    assert done.err.count("error: ") == 1
    return str(done.err)


@pytest.mark.parametrize("words", WORDS)
def test_training(words: str, bnn: Bnn, small: tuple[str, ...]) -> None:
    assert WORDS[words] in one_sentence(bnn("train", *small, *words.split(" ")))


def damage_weight(change: Callable[[torch.Tensor], Any]) -> Callable[[dict[str, Any]], None]:
    def damage(checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        state["backbone.fc1.weight"] = change(state["backbone.fc1.weight"])

    return damage


def set_config(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda checkpoint: checkpoint[CONFIG_KEY]["model"].update(changes)


def hold_itself(checkpoint: dict[str, Any]) -> None:
    checkpoint[CONFIG_KEY]["model"]["more"] = checkpoint[CONFIG_KEY]


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a string": (damage_weight(str), "fc1.weight` is str, no tensor"),
    "sparse": (damage_weight(torch.Tensor.to_sparse), "fc1.weight` is a sparse tensor (torch.sparse_coo)"),
    "complex": (damage_weight(lambda w: w.to(torch.complex64)), "fc1.weight` is a tensor of complex numbers"),
    "integers": (damage_weight(lambda w: w.to(torch.int32)), "fc1.weight` is of torch.int32, not of torch.float32"),
    "no values": (damage_weight(lambda w: w.to("meta")), "fc1.weight` is a tensor without values"),
    "a list as a name": (set_config(name=["mlp"]), "`model.name` must be a name, got ['mlp']"),
    "a number as a key": (lambda c: c[CONFIG_KEY]["model"].update({3: 4}), "a key must be a name, got 3"),
    "a tensor": (set_config(width=torch.ones(3)), "it holds a Tensor"),
    "itself": (hold_itself, "sections lie within each other"),
    "numbers as names": (lambda c: c.update(state_dict={1: torch.ones(1)}), "is not a checkpoint of ours"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_checkpoints(damage: str, trained: Any, bnn: Bnn) -> None:
    change, message = DAMAGE[damage]
    checkpoint = copy.deepcopy(torch.load(trained.final, weights_only=True))
    change(checkpoint)
    torch.save(checkpoint, "damaged.ckpt")
    assert message in one_sentence(bnn("evaluate", "ckpt=damaged.ckpt", "trainer.accelerator=cpu"))


@pytest.mark.parametrize("damage", ["a string", "sparse", "complex"])
def test_weights_to_start_from(damage: str, trained: Any, bnn: Bnn, small: tuple[str, ...]) -> None:
    change, message = DAMAGE[damage]
    checkpoint = copy.deepcopy(torch.load(trained.final, weights_only=True))
    change(checkpoint)
    torch.save(checkpoint, "damaged.ckpt")
    assert message in one_sentence(bnn("train", *small, "init_from=damaged.ckpt"))
    weights = {name.removeprefix("backbone."): w for name, w in checkpoint["state_dict"].items() if "backbone." in name}
    torch.save({"epoch": 1, "state_dict": weights}, "published.pth")
    assert message in one_sentence(bnn("train", *small, "init_from=published.pth"))


def test_files_of_other_kinds(trained: Any, bnn: Bnn, workplace: Path) -> None:
    (workplace / "broken.safetensors").write_bytes(b"\x10" + bytes(7) + b'{"a":1}garbage')
    given = ("model=mlp", "data=synthetic", "data.image_size=8", "trainer.accelerator=cpu")
    assert "`broken.safetensors`" in one_sentence(bnn("evaluate", "ckpt=broken.safetensors", *given))
    assert bnn("export", f"ckpt={trained.final}", "out=net.bnn").code == 0
    for words in (("evaluate", "ckpt=net.bnn"), ("profile", "ckpt=net.bnn"), ("train", "init_from=net.bnn")):
        assert (
            "`net.bnn` is a packed file, which `bnn export` wrote, and no checkpoint: packed=net.bnn"
            in one_sentence(bnn(*words))
        )
    other = ("data=synthetic", "data.image_size=16", "trainer.accelerator=cpu")
    for words in (
        ("evaluate", f"ckpt={trained.final}"),
        ("evaluate", "packed=net.bnn"),
        ("export", f"ckpt={trained.final}"),
    ):
        message = one_sentence(bnn(*words, *other))
        assert "is a network for images of 8 pixels, and these have 16: take data.image_size=8" in message


@pytest.mark.skipif(sys.platform != "linux", reason="file systems elsewhere refuse such names")
def test_names_of_files_that_are_no_text(trained: Any, bnn: Bnn, workplace: Path) -> None:
    assert bnn("export", f"ckpt={trained.final}", "out=net.bnn").code == 0
    (workplace / "pictures").mkdir()
    for name in (b"a.png", b"b\xff.png", b"c.png"):
        Image.new("RGB", (8, 8)).save(workplace / "pictures" / os.fsdecode(name), "PNG")
    code = """
from bnn_lightning.cli.main import main
for out in ("classes.csv", "classes.json"):
    main(["predict", "packed=net.bnn", "images=pictures", f"out={out}"])
"""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = (workplace / "classes.csv").read_text(encoding="utf-8").splitlines()
    for rows in (list(csv.DictReader(lines)), json.loads((workplace / "classes.json").read_text(encoding="utf-8"))):
        names = [row["image"] for row in rows]
        assert len(names) == 3
        assert [name.encode("utf-8", "surrogateescape")[-5:] for name in names] in (
            [b"a.png", b"f.png", b"c.png"],  # backslash, x, f, f
            [b"a.png", b"\xff.png", b"c.png"],
        )


def test_a_partial_evaluation_says_so(trained: Any, bnn: Bnn, small: tuple[str, ...]) -> None:
    words = ("evaluate", f"ckpt={trained.final}", "trainer.accelerator=cpu", "data.eval_batch_size=8")
    assert "images: 24\n" in bnn(*words).out
    done = bnn(*words, "trainer.limit_test_batches=2")
    assert "images: 16 (PARTIAL: trainer.limit_test_batches=2 leaves images out)\n" in done.out
    done = bnn("train", *small, "debug=fast")
    assert done.code == 0
    assert "PARTIAL: trainer.fast_dev_run=" in done.out
    assert "PARTIAL" not in trained.out


def test_the_summary_has_the_network_and_nothing_else(bnn: Bnn, small: tuple[str, ...]) -> None:
    words = [word for word in small if "enable_model_summary" not in word]
    done = bnn("train", *words, "epochs=1", "test=false")
    lines = (done.out + done.err).split("Name ", 1)[1].splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["backbone", "distiller"]
    assert "parameters are trained" in lines[3]
    assert not any("flops" in line.lower() or "EpochMeans" in line for line in lines)


def test_data_for_another_network(trained: Any, bnn: Bnn, workplace: Path) -> None:
    data, fast = "data=synthetic", "trainer.accelerator=cpu"
    size, channels = (data, "data.image_size=16"), (data, "data.image_size=8", "data.in_channels=1")
    classes = (data, "data.image_size=8", "data.num_classes=12")
    for verb in (
        ("evaluate", f"ckpt={trained.final}", fast),
        ("export", f"ckpt={trained.final}"),
        ("report", f"run={trained.folder}"),
    ):
        assert "for images of 8 pixels, and these have 16" in one_sentence(bnn(*verb, *size))
        assert "a network with in_channels=3, and the data have in_channels=1" in one_sentence(bnn(*verb, *channels))
        assert "a network with num_classes=10, and the data have num_classes=12" in one_sentence(bnn(*verb, *classes))
    for kind in ("signs", "feature_maps", "embedding", "landscape"):
        picture = ("visualize", f"{kind}={trained.folder}", "out=picture.png")
        assert "for images of 8 pixels, and these have 16" in one_sentence(bnn(*picture, *size))
        assert "a network with in_channels=3, and the data have in_channels=1" in one_sentence(bnn(*picture, *channels))
    assert "a network with num_classes=10" in one_sentence(bnn(*picture, *classes))
    done = bnn("visualize", f"signs={trained.folder}", *classes, "images=8", "dpi=20", "out=picture.png")
    assert done.code == 0, done.err
    (workplace / "folder").mkdir()
    assert "`folder`: Is a directory" in one_sentence(bnn("evaluate", "packed=folder"))
