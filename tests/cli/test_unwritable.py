"""Places that no verb can write to: one sentence that names the place, before the work, and nothing is changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Bnn = Callable[..., Any]

LONG = "n" * 300  # longer than file systems take
SOURCE = ("source=pictures", "size=4", "num_workers=1")
# By verb: words before the place, and the suffix of what is written there.
VERBS: dict[str, tuple[tuple[str, ...], str]] = {
    "predict": (("predict", "packed=net.bnn", "images=pictures", "out="), ".csv"),
    "export": (("export", "ckpt=RUN", "out="), ".bnn"),
    "export, torch": (("export", "ckpt=RUN", "format=torch", "out="), ".pt2"),
    "export, onnx": (("export", "ckpt=RUN", "format=onnx", "out="), ".onnx"),
    "export, c": (("export", "ckpt=RUN", "format=c", "out="), ".c"),
    "benchmark": (("benchmark", "ckpt=RUN", "out="), ".json"),
    "benchmark, chart": (("benchmark", "ckpt=RUN", "chart="), ".png"),
    "report": (("report", "run=RUN", "out="), ".html"),
    "visualize": (("visualize", "signs=RUN", "out="), ".png"),
    "visualize, folder": (("visualize", "signs=RUN", "out="), ""),
    "visualize, landscape": (("visualize", "landscape=RUN", "out="), ".png"),
    "prepare": (("prepare", *SOURCE, "output="), ""),
    "prepare, stream": (("prepare", *SOURCE, "to=stream", "output="), ""),
    "conf": (("conf", "cp", "model/mlp", ""), ""),
    "train": (("train", "data=synthetic", "model=mlp", "hydra.run.dir="), ""),
}


@pytest.mark.parametrize("verb", VERBS)
def test_out(verb: str, trained: Any, bnn: Bnn, workplace: Path) -> None:
    words, suffix = VERBS[verb]
    (workplace / "file").write_text("stays")
    (workplace / "pictures" / "train" / "a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(workplace / "pictures" / "train" / "a" / "0.png")
    before = sorted(workplace.rglob("*"))
    for place in (f"file/x{suffix}", f"{LONG}{suffix}"):
        *given, last = (word.replace("RUN", str(trained.folder)) for word in words)
        done = bnn(*given, f"{last}{place}")
        assert done.code == 2
        assert done.err.count("error: ") == 1
        assert "Traceback" not in done.err
        assert place.split("/")[0] in done.err
        assert "Errno" not in done.err
    assert sorted(workplace.rglob("*")) == before
    assert (workplace / "file").read_text() == "stays"
