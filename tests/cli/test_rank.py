"""`bnn rank`: candidates measured on held-out digits, beside plain torch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bnn_lightning.cli.checkpoint import load_backbone
from bnn_lightning.data import DigitsDataModule
from bnn_lightning.metrics import knowledge_complexity

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
    found = json.loads(done.out[done.out.index("{") :])
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
    best = json.loads(done.out[done.out.index("{") :])["teachers"][0]
    assert best["teacher"] == "runs/good"
    assert best["complexity"] < 1
    table = bnn("rank", *words).out
    order = [line.split()[0] for line in table.splitlines() if line.startswith("runs/")]
    assert order == [row["teacher"] for row in json.loads(done.out[done.out.index("{") :])["teachers"]]
    assert f"on {len(labels)} held-out images" in table
    assert "note:" not in table
    note = [line for line in bnn("rank", *words, "data.seed=6").out.splitlines() if line.startswith("note:")]
    assert "trained on some of these images" in note[0]
    assert "runs/student, runs/poor, runs/good" in note[0]


def test_an_option_of_the_group_teacher(trained: Any, bnn: Bnn, workplace: Path) -> None:
    (workplace / "mine/teacher").mkdir(parents=True)
    option = "defaults: [resnet18, _self_]\nnetwork:\n  pretrained: false\nimage_size: 32\n"
    (workplace / "mine/teacher/random18.yaml").write_text(option)
    words = (f"student={trained.folder}", "teachers=[random18]", "data.val_fraction=0.5", *QUIET, "format=json")
    done = bnn("rank", "-cd", "mine", *words)
    assert done.code == 0, done.err
    found = json.loads(done.out[done.out.index("{") :])
    assert found["images"] == 32
    assert [row["teacher"] for row in found["teachers"]] == ["random18"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "`student` has no value: give `student=...`"),
        ("student=FINAL", "`teachers` is empty: name runs of ours and options of the group `teacher`"),
        ("student=FINAL teachers=[FINAL]", "`data.val_fraction` is 0: teachers are chosen on held-out images"),
        ("student=nowhere teachers=[FINAL]", "`nowhere`: no such file"),
        ("student=FINAL teachers=[resnet19] data.val_fraction=0.5", "no such option"),
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
