"""`bnn rank`: candidates measured on held-out digits, beside plain torch."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bnn_lightning.analysis import knowledge_complexity
from bnn_lightning.data import DigitsDataModule
from bnn_lightning.workflows.checkpoint import load_backbone

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from folders import write_folder

Bnn = Callable[..., Any]

QUIET = ("trainer.accelerator=cpu", "trainer.enable_progress_bar=false")
HELD_OUT = ("data.val_fraction=0.2", "data.seed=5")
SMALL = (
    *("data=digits", "data.image_size=8", "model=mlp", "model.width=16", "model.dropout=0.0", "test=false"),
    *("trainer.enable_model_summary=false", *QUIET, *HELD_OUT),
)


@pytest.fixture
def networks(bnn: Bnn, workplace: Path) -> Path:
    """A short binary student, a wider float network of three epochs, and one that has hardly begun."""
    for name, words in {
        "student": ("epochs=2",),
        "good": ("epochs=3", "model.binary=false", "model.width=64"),
        "poor": ("epochs=1", "optimizer.lr=1.0e-6", "model.binary=false"),
    }.items():
        done = bnn("train", *SMALL, *words, f"hydra.run.dir=runs/{name}")
        assert done.code == 0, done.err
    return workplace / "runs"


def test_table_and_json_are_those_of_plain_torch(networks: Path, bnn: Bnn) -> None:
    words = ("student=runs/student", "teachers=[runs/poor,runs/good,runs/student]", "data.eval_batch_size=50", *QUIET)
    done = bnn("rank", *words, "format=json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    data = DigitsDataModule(batch_size=64, image_size=8, val_fraction=0.2, seed=5)
    data.setup("validate")
    batches = list(data.batches(data.val_dataloader()))
    images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    assert (found["student"], found["images"], found["trained_on_them"]) == ("runs/student", len(labels), [])
    with torch.no_grad():
        logits = {name: load_backbone(networks / name)(images) for name in ("student", "good", "poor")}
    for row in found["teachers"]:
        name = row.pop("teacher").removeprefix("runs/")
        assert row == pytest.approx(vars(knowledge_complexity(logits[name], logits["student"], labels)), rel=1e-5)
    complexities = [row["complexity"] for row in found["teachers"]]
    assert complexities == sorted(complexities)
    best = json.loads(done.out)["teachers"][0]
    assert best["teacher"] == "runs/good"
    assert best["complexity"] < 1
    table = bnn("rank", *words).out
    order = [line.split()[0] for line in table.splitlines() if line.startswith("runs/")]
    assert order == [row["teacher"] for row in json.loads(done.out)["teachers"]]
    assert f"on {len(labels)} held-out images" in table
    assert "note:" not in table
    note = [line for line in bnn("rank", *words, "data.seed=6").out.splitlines() if line.startswith("note:")]
    assert "trained on some of these images" in note[0]
    assert "runs/student, runs/poor, runs/good" in note[0]


def test_an_option_of_the_group_teacher(trained: Any, bnn: Bnn, workplace: Path) -> None:
    (workplace / "mine/teacher").mkdir(parents=True)
    option = "defaults: [torchvision, _self_]\nnetwork:\n  name: resnet18\n  pretrained: false\nimage_size: 32\n"
    (workplace / "mine/teacher/random18.yaml").write_text(option)
    words = (f"student={trained.folder}", "teachers=[random18]", "data.val_fraction=0.5", *QUIET, "format=json")
    done = bnn("rank", "-cd", "mine", *words)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["images"], found["damaged"], found["not_binary"]) == (32, 0, [])
    assert [row["teacher"] for row in found["teachers"]] == ["random18"]


@pytest.mark.slow
def test_two_processes_measure_what_one_does_and_speak_once(trained: Any, process: Callable[..., Any]) -> None:
    student = f"student={trained.final}"
    given = ("rank", student, f"teachers=[{trained.folder}]", "data.val_fraction=0.42", "data.eval_batch_size=6")
    found = []
    for devices in (1, 2):
        words = (*given, "trainer.accelerator=cpu", f"trainer.devices={devices}", "format=json")
        done = process("-m", "bnn_lightning.cli.main", *words)
        assert done.code == 0, done.err[-3000:]
        found.append(json.loads(done.out))
    assert found[0]["images"] == found[1]["images"] == 27
    (alone,), (shared,) = (each.pop("teachers") for each in found)
    assert shared.pop("teacher") == alone.pop("teacher")
    assert shared == pytest.approx(alone, rel=1e-6)
    assert found[0] == found[1]


def test_json_is_alone_on_stdout(trained: Any, bnn: Bnn) -> None:
    words = (f"student={trained.final}", f"teachers=[{trained.folder}]", "data.val_fraction=0.5")
    done = bnn("rank", *words, "trainer.accelerator=cpu", "format=json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["images"] == 32
    assert "Validation" in done.err


def test_networks_that_are_not_binary_are_named(small: tuple[str, ...], trained: Any, bnn: Bnn) -> None:
    binarizer = ("binarizer@model.weight_binarizer=temperature", "callbacks=default", "epochs=1")
    words = [word for word in small if not word.startswith("epochs")]
    done = bnn("train", *words, *binarizer, "hydra.run.dir=runs/relaxed")
    assert done.code == 0, done.err
    checkpoint = torch.load("runs/relaxed/checkpoints/final.ckpt", weights_only=True)
    for name, value in checkpoint["state_dict"].items():
        if name.endswith("progress"):
            value.fill_(0.1)
    torch.save(checkpoint, "relaxed.ckpt")
    for student, teacher in ((trained.final, "relaxed.ckpt"), ("relaxed.ckpt", trained.final)):
        given = (f"student={student}", f"teachers=[{teacher}]", "data.val_fraction=0.5", *QUIET)
        assert json.loads(bnn("rank", *given, "format=json").out)["not_binary"] == ["relaxed.ckpt"]
        lines = bnn("rank", *given).out.splitlines()
        assert [line for line in lines if "NOT BINARY" in line] == [lines[-1]]
        assert lines[-1].startswith("relaxed.ckpt: NOT BINARY: ")


def test_a_damaged_image(workplace: Path, bnn: Bnn) -> None:
    root = write_folder(workplace / "data" / "imagenet", classes=2, train=4, val=1)
    data = ("data=imagenet", "data.num_classes=2", "data.batch_size=4", "data.num_workers=0", "data.image_size=32")
    rest = ("model=resnet18_double_skip", "model.width=4", "trainer.enable_model_summary=false", "test=false", *QUIET)
    done = bnn("train", *data, *rest, "epochs=1", "warmup_epochs=0", "hydra.run.dir=runs/one")
    assert done.code == 0, done.err
    for file in (root / "train" / "n01").iterdir():
        file.write_bytes(b"no image")
    words = ("rank", "student=runs/one", "teachers=[runs/one]", "data.val_fraction=0.5", *QUIET)
    done = bnn(*words)
    assert done.code == 2
    assert "error: `data`: `data/imagenet/train/n01/n01_0" in done.err
    assert "is damaged: it cannot be decoded" in done.err
    assert "Traceback" not in done.err
    with pytest.warns(UserWarning, match="is damaged and passed over"):
        done = bnn(*words, "data.on_damaged=skip")
    assert "on 2 held-out images (2 damaged ones left out)" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "`student` has no value: give `student=...`"),
        ("student=FINAL", "`teachers` is empty: name runs of ours and options of the group `teacher`"),
        ("student=FINAL teachers=[FINAL]", "`data.val_fraction` is 0: teachers are chosen on held-out images"),
        ("student=nowhere teachers=[FINAL]", "`nowhere`: no such file"),
        (
            "student=FINAL teachers=[resnet19] data.val_fraction=0.5",
            "no file or folder resnet19, and no option of the group `teacher`. Did you mean `resnet18`?",
        ),
        (
            "student=FINAL teachers=[runs/nope] data.val_fraction=0.5",
            "there is no file or folder runs/nope, and no option of the group `teacher`.",
        ),
        ("student=FINAL teachers=[_frozen] data.val_fraction=0.5", "no option of the group `teacher`"),
        ("student=FINAL teachers=['a=b'] data.val_fraction=0.5", "there is no file or folder a=b, and no option"),
        ("student=FINAL teachers=[5]", "`teachers` must be a list of names, got 5 in it: name runs of ours"),
        ("student=FINAL teachers=[true]", "`teachers` must be a list of names, got true in it: name runs of ours"),
        ("student=FINAL teachers=[{a:1}]", '`teachers` must be a list of names, got {"a": 1} in it: name runs'),
        ("student=FINAL teachers=runs/t1", "`teachers` must be a list, got runs/t1: name runs of ours"),
        ("student=FINAL teachers=[resnet34] data.val_fraction=0.5", "`resnet34`: The published weights of `resnet34`"),
        ("student=FINAL teachers=[checkpoint] data.val_fraction=0.5", "`checkpoint` has no value for ckpt"),
        ("student=FINAL teachers=[FINAL,FINAL] data.val_fraction=0.5", "names one of them twice"),
        ("student=FINAL teachers=[FINAL] format=xml", "`format` must be text or json, got xml"),
    ],
)
def test_one_clear_message(words: str, message: str, trained: Any, bnn: Bnn) -> None:
    done = bnn("rank", *words.replace("FINAL", str(trained.final)).split(), *QUIET)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
