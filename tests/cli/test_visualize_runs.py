"""`bnn visualize surrogates`, `soft_label_heatmap`, `signs`, `embedding` and `feature_maps`: files and refusals."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bnn_lightning.data.preparation import Preparation
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.figure_kinds.feature_maps import read_picture

Bnn = Callable[..., Any]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_surrogates(bnn: Bnn, tmp_path: Path) -> None:
    done = bnn("visualize", "surrogates=[SignSTE,ReSTE]", "points=5", "progress=[0,1]", f"out={tmp_path}", "dpi=20")
    assert done.code == 0, done.err
    assert [row["gradient"] for row in rows_of(tmp_path / "surrogates.csv")][:5] == ["0.0", "1.0", "1.0", "1.0", "0.0"]
    assert (tmp_path / "surrogates.png").is_file()
    assert (
        "`progress` must be a list of at least one"
        in bnn("visualize", "surrogates=all", "progress=[]", f"out={tmp_path}").err
    )
    done = bnn("visualize", "surrogates=SignSTE", "points=5", f"out={tmp_path}", "formats=[html]")
    assert "no figure: this one is drawn as png, svg, pdf" in done.out
    assert "Did you mean `SignSTE`" in bnn("visualize", "surrogates=SignSTTE", f"out={tmp_path}").err


def test_signs_and_embedding_of_a_run(trained: Any, bnn: Bnn, tmp_path: Path) -> None:
    done = bnn("visualize", f"signs={trained.folder}", f"out={tmp_path}/s.png", "dpi=20", "images=8")
    assert done.code == 0, done.err
    rows = rows_of(tmp_path / "s.csv")
    assert [row["layer"] for row in rows] == ["fc1", "fc2", "fc3"]
    assert rows[0]["input_share"] == ""
    with np.load(tmp_path / "s.npz") as arrays:
        assert set(arrays) == {"edges", "fc1", "fc2", "fc3"}
    pytest.importorskip("sklearn")
    done = bnn(
        "visualize", f"embedding={trained.final}", f"out={tmp_path}/e.png", "dpi=20", "images=20", "perplexity=5"
    )
    assert done.code == 0, done.err
    assert len(rows_of(tmp_path / "e.csv")) == 20
    with np.load(tmp_path / "e.npz") as arrays:
        assert arrays["features"].shape == (20, 16)
    done = bnn("visualize", f"embedding={trained.final}", f"out={tmp_path}/e.png", "images=20")
    assert "`perplexity` must be positive and below the number of images, 20, got 30" in done.err


def test_runs_without_what_is_asked_for(trained: Any, bnn: Bnn, tmp_path: Path) -> None:
    done = bnn("visualize", f"soft_label_heatmap={trained.folder}", f"out={tmp_path}")
    assert (done.code, "has no soft-label bank: only runs with distill=skd" in done.err) == (2, True)
    done = bnn("visualize", f"feature_maps={trained.folder}", f"out={tmp_path}")
    assert "has no binary layer whose input is a binary map" in done.err
    done = bnn("visualize", f"feature_maps={trained.folder}", "index=99", f"out={tmp_path}")
    assert "`index` must be below the number of test images, 24, got 99" in done.err


@pytest.fixture
def skd(bnn: Bnn, workplace: Path) -> Path:
    """A run of seconds with a bank and with maps."""
    words = ("data=synthetic", "data.image_size=8", "data.num_train=32", "data.num_test=8", "data.batch_size=16")
    more = ("model=resnet20", "model.width=4", "distill=skd", "epochs=1", "trainer.accelerator=cpu")
    quiet = ("trainer.enable_progress_bar=false", "trainer.enable_model_summary=false")
    assert bnn("train", *words, *more, *quiet).code == 0
    (run,) = workplace.glob("runs/*/*")
    return run


def test_bank_and_feature_maps_of_a_run(skd: Path, bnn: Bnn, tmp_path: Path) -> None:
    done = bnn("visualize", f"soft_label_heatmap={skd}", f"out={tmp_path}/b.png", "dpi=20")
    assert done.code == 0, done.err
    rows = rows_of(tmp_path / "b.csv")
    assert "`temperature` must be positive, got 0" in bnn("visualize", f"soft_label_heatmap={skd}", "temperature=0").err
    assert "`size` must be 1 or more, got 0" in bnn("visualize", f"feature_maps={skd}", "size=0").err
    classes = {row["class"] for row in rows}
    assert len(rows) == len(classes) ** 2
    one = [float(row["soft_label"]) for row in rows if row["class"] == rows[0]["class"]]
    assert sum(one) == pytest.approx(1.0, abs=1e-5)
    Image.fromarray(np.full((20, 30, 3), 128, np.uint8)).save(tmp_path / "gray.png")
    words = (f"image={tmp_path}/gray.png", "size=16", "layers=[layer2.0.conv1]", f"out={tmp_path}/f.png", "dpi=20")
    done = bnn("visualize", f"feature_maps={skd}", *words)
    assert done.code == 0, done.err
    with np.load(tmp_path / "f.npz") as arrays:
        assert arrays["image"].shape == (3, 16, 24)
        real, signs = arrays["layer2.0.conv1.real"], arrays["layer2.0.conv1.signs"]
    assert np.array_equal(signs, np.where(real >= 0, 1, -1))
    assert signs.dtype == np.int8


def test_pictures_are_read_whole(tmp_path: Path) -> None:
    Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).save(tmp_path / "a.png")
    gray, color = (Preparation(size=(2, 3), channels=channels, resize=(2, 3)) for channels in (1, 3))
    assert np.allclose(read_picture(tmp_path / "a.png", gray)[0] * 255, np.arange(6).reshape(2, 3))
    assert read_picture(tmp_path / "a.png", color, size=4).shape == (3, 4, 6)
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(UserError, match="is not a picture that can be read"):
        read_picture(tmp_path / "b.png", color)
