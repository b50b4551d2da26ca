"""`bnn prepare`, from the command line to a set that trains."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from folders import write_folder

Bnn = Callable[..., Any]


@pytest.fixture
def source(workplace: Path) -> Path:
    root = write_folder(workplace / "data" / "imagenet", classes=2, train=4, val=2)
    broken = root / "val" / "n01" / "n01_001.JPEG"
    broken.write_bytes(broken.read_bytes()[:100])
    return root


def test_a_folder_is_shrunk_and_trains(source: Path, workplace: Path, bnn: Bnn) -> None:
    done = bnn("prepare", "output=small", "size=32", "num_workers=1")
    assert done.code == 0, done.err
    assert "images:  11 written" in done.out
    assert "damaged: 1 file left out, listed in small/damaged.txt" in done.out
    assert (workplace / "small" / "damaged.txt").read_text() == "data/imagenet/val/n01/n01_001.JPEG\n"
    assert "bnn train data=imagenet data.root=small" in done.out
    assert not (workplace / "runs").exists()
    again = bnn("prepare", "output=small", "size=32", "num_workers=1")
    assert "images:  0 written, 11 were there already" in again.out
    trained = bnn(
        *(
            "train",
            "data=imagenet",
            "data.root=small",
            "data.num_classes=2",
            "data.image_size=16",
            "data.num_workers=0",
        ),
        *("model=mlp", "model.width=8", "data.batch_size=4", "epochs=1", "trainer.accelerator=cpu"),
        *("trainer.enable_progress_bar=false", "trainer.enable_model_summary=false"),
    )
    assert trained.code == 0, trained.err
    assert "test accuracy:" in trained.out


def test_damaged_files_are_fatal_by_option_and_cost_nothing_else(source: Path, workplace: Path, bnn: Bnn) -> None:
    done = bnn("prepare", "output=small", "size=32", "num_workers=1", "on_damaged=error")
    assert done.code == 2
    assert all(
        part in done.err for part in ("1 damaged file of", "data/imagenet/val/n01/n01_001.JPEG", "on_damaged=skip")
    )
    assert len(list((workplace / "small").rglob("*.JPEG"))) == 11
    assert (workplace / "small" / "damaged.txt").is_file()


def test_a_folder_becomes_a_stream(source: Path, workplace: Path, bnn: Bnn) -> None:
    pytest.importorskip("litdata", reason="needs the extra `stream`")
    done = bnn("prepare", "to=stream", "output=stored", "size=null", "num_workers=1")
    assert done.code == 0, done.err
    assert "bnn train data=imagenet_stream data.root=stored" in done.out
    assert (workplace / "stored" / "val" / "labels.json").is_file()


@pytest.mark.parametrize(
    "words, message",
    [
        ((), "`output` has no value"),
        (("output=x", "to=tar"), "`to` must be folder or stream, got tar"),
        (("output=x", "size=null"), "`size` must be given with to=folder"),
        (("output=x", "quality=200"), "`quality` must be a whole number between 1 and 95"),
        (("output=x", "num_workers=two"), "num_workers"),
        (("output=data/imagenet/x",), "`output` must lie outside of `source`"),
        (("output=x", "source=nowhere"), "`source` must hold train/<class>"),
        (("output=x", "szie=3"), "Did you mean `size`?"),
    ],
)
def test_what_cannot_be_is_refused(source: Path, bnn: Bnn, words: tuple[str, ...], message: str) -> None:
    done = bnn("prepare", *words)
    assert done.code == 2
    assert message in done.err
