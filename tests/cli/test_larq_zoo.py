"""Weights of larq-zoo on the command line: scored, packed, and trained on with another head."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("h5py", reason="needs the extra `keras`")
Bnn = Callable[..., Any]

FILE = Path(__file__).parents[1] / "models" / "larq_zoo" / "quicknet_thin.h5"
MODEL = ("model=quicknet", "model.width=4", "model.depths=[1,1,1,2]")
QUIET = "trainer.enable_progress_bar=false"
DATA = ("data=synthetic", "data.image_size=32", "data.num_test=12", "data.batch_size=4", "data.num_train=8")


def test_a_file_of_larq_zoo_is_scored_and_exported(bnn: Bnn, workplace: Path) -> None:
    done = bnn("evaluate", f"ckpt={FILE}", *MODEL, *DATA, "data.num_classes=5", QUIET)
    assert done.code == 0, done.err
    exported = bnn("export", f"ckpt={FILE}", *MODEL, *DATA, "data.num_classes=5", "out=thin.bnn")
    assert exported.code == 0, exported.err
    scores = [line for line in done.out.splitlines() if line.startswith(("images", "top-1"))]
    packed = bnn("evaluate", "packed=thin.bnn", *DATA, "data.num_classes=5", QUIET)
    assert packed.code == 0, packed.err
    assert [line for line in packed.out.splitlines() if line.startswith(("images", "top-1"))] == scores


def test_a_training_starts_from_a_file_of_larq_zoo_with_a_new_head(bnn: Bnn, workplace: Path) -> None:
    words = (f"init_from={FILE}", *MODEL, *DATA, "data.num_classes=3", "epochs=1", "trainer.accelerator=cpu", QUIET)
    done = bnn("train", *words)
    assert done.code == 0, done.err
    assert "linear.weight" in done.out + done.err


def test_a_file_of_larq_zoo_needs_its_network(bnn: Bnn, workplace: Path) -> None:
    done = bnn("evaluate", f"ckpt={FILE}", "model=resnet20", *DATA, "data.num_classes=5", QUIET)
    assert done.code == 2
    assert "is none of its networks" in done.err
