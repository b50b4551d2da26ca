"""`make bench-train ARGS=...` gives both benchmarks the same arguments."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image


@pytest.fixture
def root_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]


def test_both_take_the_same_arguments(root_on_path: None, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import skd, train

    given = "--models resnet20 mlp --batch 8 --repeats 2 --threads 1 --compile --no-memory --bf16 --channels-last"
    ours, distilled = train.parse(given.split()), skd.parse(given.split())
    assert ours.models == ["resnet20", "mlp"]
    assert distilled.models == ["resnet20"]
    for name in ("batch", "repeats", "threads", "device", "compile", "no_memory", "bf16", "channels_last"):
        assert getattr(ours, name) == getattr(distilled, name), name
    said = capsys.readouterr().err
    assert "--compile has no effect" in said
    assert "--no-memory has no effect" in said
    assert "no transcription of mlp" in said


def test_a_folder_is_read_by_both(
    root_on_path: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import folder

    for wnid in ("n01", "n02"):
        (tmp_path / "train" / wnid).mkdir(parents=True)
        for i in range(2):
            Image.effect_mandelbrot((60 + i, 50), (-3, -2.5, 2, 2.5), 20).save(tmp_path / "train" / wnid / f"{i}.JPEG")
    monkeypatch.setattr(sys, "argv", ["folder", "--folder", str(tmp_path), "--images", "4", "--repeats", "1"])
    threads = torch.get_num_threads()
    folder.main()
    torch.set_num_threads(threads)
    out = capsys.readouterr().out
    assert "4 files: " in out
    assert "ours, pil, after bnn prepare" in out
