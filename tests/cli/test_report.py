"""`bnn report`: the numbers of the page are those of the run."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bnn_lightning.utils.curves import read_last
from bnn_lightning.workflows.predictions import Predictions

Bnn = Callable[..., Any]


def test_page_of_a_run(trained: Any, bnn: Bnn, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    done = bnn("report", f"run={trained.folder}", f"out={out}", "examples=5")
    assert done.code == 0, done.err
    assert f"written: {out}" in done.out
    page = out.read_text(encoding="utf-8")
    facts = dict(re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)</dd>", page))
    last = read_last(trained.folder)
    assert facts["top-1, test"] == f"{100 * last['test/acc']:.2f} %"
    assert facts["top-5, test"] == f"{100 * last['test/acc_top5']:.2f} %"
    assert facts["loss, test"] == f"{last['test/loss']:.4f}"
    assert facts["parameters"] == "3,898"
    assert "mlp on synthetic, 2 epochs, seed 1" in page
    assert "Scored on 24 test images" in page
    wrong = round(24 * (1 - last["test/acc"]))
    assert page.count("<img ") == 5 + min(5, wrong)
    assert "data.image_size=8" in page  # what was typed
    assert 'id="packed"' not in page
    assert 'id="bank"' not in page


def test_packed_file_bank_and_benchmark(bnn: Bnn, small: tuple[str, ...], workplace: Path) -> None:
    words = ("model.width=64", "distill=skd", "callbacks.flip_rate.per_layer=true", "hydra.run.dir=run")
    assert bnn("train", *small, *words).code == 0
    assert bnn("export", "ckpt=run/checkpoints/final.ckpt", "images=16").code == 0
    entry = {"name": "packed", "threads": 1, "batch": 1, "median": 0.00025}
    Path("run/benchmark.json").write_text(json.dumps({"entries": [entry]}))
    done = bnn("report", "run=run")
    assert done.code == 0, done.err
    page = Path("run/report.html").read_text(encoding="utf-8")
    for key in ("training", "predictions", "classes", "network", "signs", "bank", "packed", "configuration"):
        assert f'id="{key}"' in page, key
    assert "of final.ckpt" in page
    assert f"{Path('run/checkpoints/final.bnn').stat().st_size:,} bytes" in page
    assert "time of an image" in page
    assert '<td>packed</td><td class="number">1</td><td class="number">1</td><td class="number">0.25</td>' in page
    assert "flipped in the last epoch" in page


@pytest.mark.parametrize(
    "words, message",
    [
        ("run=nowhere", "there is no folder nowhere"),
        ("run=.", "has no checkpoint"),
        ("run=RUN out=page.pdf", "`out` must end in .html"),
        ("run=RUN out=none/page.html", "there is no folder none"),
        ("run=RUN images=0", "`images` must be 1 or more"),
        ("run=RUN examples=-1", "`examples` must not be negative"),
        ("", "`run` has no value"),
    ],
)
def test_one_clear_message(words: str, message: str, trained: Any, bnn: Bnn) -> None:
    done = bnn("report", *words.replace("RUN", str(trained.folder)).split())
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


def test_predictions_are_counted_batch_by_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(30, 1, 2, 2, generator=generator), torch.arange(30) % 7
    logits = 3 * torch.randn(30, 7, generator=generator)
    found = Predictions([f"c{label}" for label in range(7)], most=4)
    for start in range(0, 30, 8):
        found.update(images[start : start + 8], labels[start : start + 8], logits[start : start + 8])
    predicted = logits.argmax(1)
    assert found.images == 30
    assert found.top1 == int((predicted == labels).sum()) / 30
    assert found.in_five == sum(int(label in row.topk(5).indices) for row, label in zip(logits, labels, strict=True))
    assert found.loss / 30 == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-6)
    for true in range(7):
        for said in range(7):
            assert found.confusion[true, said] == int(((labels == true) & (predicted == said)).sum())
    assert [one.label for one in found.first] == ["c0", "c1", "c2", "c3"]
    surest = sorted(logits.softmax(1).max(1).values[predicted != labels].tolist(), reverse=True)[:4]
    assert [one.probability for one in found.mistakes] == pytest.approx(surest)
    assert found.first[2].pixels.tolist() == (255 * images[2, 0]).round().to(torch.uint8).tolist()
