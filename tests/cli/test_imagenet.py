"""ImageNet from its folder to scores; with damaged files, on two processes, and over a kill in mid-epoch."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from folders import write_folder

Bnn = Callable[..., Any]
Process = Callable[..., Any]
BNN = ("-m", "bnn_lightning.cli.main")
NETWORK = ("model=resnet18_double_skip", "model.width=4", "data.image_size=32", "epochs=2", "warmup_epochs=0")
QUIET = ("trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.enable_model_summary=false")


def test_folder_to_checkpoint_to_scores_with_damaged_files(workplace: Path, bnn: Bnn) -> None:
    root = write_folder(workplace / "data" / "imagenet", classes=3, train=4, val=3)
    for name in ("train/n01/n01_002.JPEG", "val/n02/n02_001.JPEG"):
        (root / name).write_bytes(b"no image")
    data = ("data=imagenet", "data.num_classes=3", "data.batch_size=4", "data.num_workers=0")
    for workers in (0, 1):
        done = bnn("train", *data, f"data.num_workers={workers}", *NETWORK, *QUIET)
        assert done.code == 2
        assert "error: `data`: `data/imagenet/train/n01/n01_002.JPEG` is damaged: it cannot be decoded" in done.err
        assert "Traceback" not in done.err
    with pytest.warns(UserWarning, match=r"n0[12]_00[12]\.JPEG` is damaged and passed over"):
        done = bnn("train", *data, "data.on_damaged=skip", *NETWORK, *QUIET)
    assert done.code == 0, done.err
    run = max(workplace.glob("runs/*/*"), key=lambda path: path.stat().st_mtime)
    (curves,) = run.rglob("metrics.csv")
    lines = curves.read_text().splitlines()
    column = lines[0].split(",").index("data/damaged")
    assert [float(line.split(",")[column]) for line in lines[1:] if line.split(",")[column]] == [1.0, 1.0]
    with pytest.warns(UserWarning, match="is damaged and passed over"):
        scored = bnn("evaluate", f"ckpt={run}/checkpoints/final.ckpt", "trainer.accelerator=cpu")
    assert "images: 8 (1 damaged ones left out)" in scored.out


PROBE = '''
import json
import os
import time
from pathlib import Path

from pytorch_lightning import Callback, Trainer


class Probe(Callback):
    """Note the labels of each training batch; in the middle of an epoch of the first run, wait to be killed."""

    def __init__(self, run: str, stop: int) -> None:
        self.run, self.stop = run, stop

    def on_train_batch_start(self, trainer: Trainer, pl_module: object, batch: tuple, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and batch_idx == self.stop:
            Path(f"waiting-{trainer.global_rank}").touch()
            time.sleep(600)
        note = {"run": self.run, "epoch": trainer.current_epoch, "batch": batch_idx, "labels": batch[1].tolist()}
        with open(f"notes-{self.run}-{trainer.global_rank}.jsonl", "a") as file:
            file.write(json.dumps(note) + "\\n")
'''
EXPERIMENT = """
# @package _global_
callbacks:
  probe:
    _target_: my_probe.Probe
    run: first
    stop: -1
"""


def notes(workplace: Path, run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for file in workplace.glob(f"notes-{run}-*") for line in file.read_text().splitlines()]


def start_and_kill(words: list[str], workplace: Path) -> None:
    """Start a run on two processes, wait until both are in mid-epoch, and kill them all at once."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(workplace)}
    command = [sys.executable, *BNN, *words, "callbacks.probe.stop=3"]
    with open("first.log", "wb") as log:
        running = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 240
    while len(list(workplace.glob("waiting-*"))) < 2 and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    alive = running.poll() is None
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert alive, Path("first.log").read_text()[-3000:]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("to", ["folder", "stream"])
def test_a_kill_in_mid_epoch_loses_and_doubles_no_image(to: str, workplace: Path, bnn: Bnn, process: Process) -> None:
    if to == "stream":
        pytest.importorskip("litdata", reason="needs the extra `stream`")
    # One image a class: its label says which image it is.
    write_folder(workplace / "data" / "imagenet", classes=24, train=1, val=1)
    assert bnn("prepare", f"to={to}", "output=prepared", "size=32", "num_workers=1").code == 0
    (workplace / "my_probe.py").write_text(PROBE)
    (workplace / "mine" / "experiment").mkdir(parents=True)
    (workplace / "mine" / "experiment" / "probed.yaml").write_text(EXPERIMENT)
    data = f"data={'imagenet_stream' if to == 'stream' else 'imagenet'}"
    words = ["train", "-cd", "mine", "experiment=probed", "trust=[my_probe]", data, "data.root=prepared"]
    words += ["data.num_classes=24", "data.batch_size=4", "trainer.devices=2", "strategy=ddp", *NETWORK, *QUIET]
    words += ["callbacks.last_checkpoint.every_n_steps=1", "test=false"]
    start_and_kill([*words, "data.num_workers=1"], workplace)
    resumed = (*words, "data.num_workers=2", "ckpt_path=last", "callbacks.probe.run=second")
    done = process(*BNN, *resumed, PYTHONPATH=str(workplace))
    assert done.code == 0, done.err[-3000:]
    first, second = notes(workplace, "first"), notes(workplace, "second")
    assert {(note["epoch"], note["batch"]) for note in second} == {(1, 3), (1, 4), (1, 5)}
    for epoch in (0, 1):
        kept = [note for note in first + second if note["epoch"] == epoch]
        assert Counter(label for note in kept for label in note["labels"]) == Counter(range(24))
    run = max(workplace.glob("runs/*/*"), key=lambda path: path.stat().st_mtime)
    evaluate = ("evaluate", f"ckpt={run}/checkpoints/final.ckpt", "strategy=ddp", "trainer.devices=2", *QUIET[:2])
    done = process(*BNN, *evaluate)
    assert done.code == 0, done.err[-3000:]
    assert re.findall(r"^images: +(\d+)$", done.out, flags=re.MULTILINE) == ["24"]
