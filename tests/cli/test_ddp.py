"""Two processes (gloo) that Lightning starts from our command lines: one folder, one job, one set of values."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Process = Callable[..., Any]
ROOT = Path(__file__).parents[2]
BNN = ("-m", "bnn_lightning.cli.main", "train")

PROBE = '''
import json
import os

from pytorch_lightning import Callback, Trainer


class Probe(Callback):
    """Note what this rank trains with, each time that it trains."""

    def __init__(self, seed: int, lr: float) -> None:
        self.note = {"seed": seed, "lr": lr}

    def on_train_start(self, trainer: Trainer, pl_module: object) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        note = {**self.note, "rank": trainer.global_rank, "rate": rate, "folder": trainer.default_root_dir}
        with open(f"notes-{os.getpid()}.jsonl", "a") as file:
            file.write(json.dumps(note) + "\\n")
'''
EXPERIMENT = """
# @package _global_
callbacks:
  probe:
    _target_: my_probe.Probe
    seed: ${seed}
    lr: ${optimizer.lr}
"""


@pytest.fixture
def words(workplace: Path, small: tuple[str, ...]) -> list[str]:
    """A configuration folder of one's own, with a callback that notes what each rank does."""
    (workplace / "my_probe.py").write_text(PROBE)
    (workplace / "mine" / "experiment").mkdir(parents=True)
    (workplace / "mine" / "experiment" / "probed.yaml").write_text(EXPERIMENT)
    given = ("-cd", "mine", "experiment=probed", "trust=[my_probe]", "trainer.devices=2", "epochs=1")
    return [*given, *(word for word in small if not word.startswith("epochs"))]


def notes(workplace: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in workplace.glob("notes-*.jsonl") for line in file.read_text().splitlines()]


def test_two_processes_share_one_run(words: list[str], workplace: Path, process: Process) -> None:
    done = process(*BNN, *words, "seed=3", PYTHONPATH=str(workplace))
    assert done.code == 0, done.err[-3000:]
    found = notes(workplace)
    assert sorted(note["rank"] for note in found) == [0, 1]
    assert {(note["seed"], note["lr"]) for note in found} == {(3, 0.001)}
    assert len({note["folder"] for note in found}) == 1
    (run,) = workplace.glob("runs/*/*")
    assert found[0]["folder"] == str(run.relative_to(workplace))
    assert done.out.count("test accuracy:") == 1
    assert (run / "checkpoints" / "final.ckpt").is_file()


def test_each_job_of_a_sweep_trains_once_with_one_set_of_values(
    words: list[str], workplace: Path, process: Process
) -> None:
    done = process(str(ROOT / "train.py"), "-m", *words, "optimizer.lr=0.001,0.01", PYTHONPATH=str(workplace))
    assert done.code == 0, done.err[-3000:]
    found = notes(workplace)
    assert sorted((note["lr"], note["rank"]) for note in found) == [(0.001, 0), (0.001, 1), (0.01, 0), (0.01, 1)]
    assert all(note["rate"] == note["lr"] for note in found)
    (sweep,) = workplace.glob("runs/*/*")
    assert sweep.parent.name == "sweep"
    for number, rate in enumerate((0.001, 0.01)):
        folder = {note["folder"] for note in found if note["lr"] == rate}
        assert folder == {str(sweep.relative_to(workplace) / str(number))}
        checkpoint = torch.load(sweep / str(number) / "checkpoints" / "final.ckpt", weights_only=True)
        assert checkpoint["bnn_lightning_config"]["optimizer"]["lr"] == rate
    assert done.out.count("test accuracy:") == 2


def test_evaluation_counts_the_images_of_all_processes_and_speaks_once(
    trained: Any, process: Process, bnn: Process
) -> None:
    given = ("evaluate", f"ckpt={trained.final}", "data=synthetic", "data.image_size=8", "data.num_test=23")
    words = ("trainer.accelerator=cpu", "trainer.devices=2", "strategy=ddp", "trainer.enable_progress_bar=false")
    done = process("-m", "bnn_lightning.cli.main", *given, *words)
    assert done.code == 0, done.err[-3000:]
    assert re.findall(r"^images: +(\d+)$", done.out, flags=re.MULTILINE) == ["23"]
    assert done.out.count("trained on synthetic") == 1
    alone = bnn(*given, "trainer.accelerator=cpu", "trainer.devices=1")
    scores = [re.findall(r"^(?:top-1|loss): +([\d.]+)", out, flags=re.MULTILINE) for out in (done.out, alone.out)]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_two_processes_train_with_a_progress_bar(small: tuple[str, ...], process: Process) -> None:
    """The bar is rank 0's alone: what it reads must not wait for the other ranks."""
    words = [word for word in small if word != "trainer.enable_progress_bar=false"]
    assert len(words) < len(small)
    done = process(str(ROOT / "train.py"), *words, "trainer.devices=2", "strategy=ddp", "distill=skd")
    assert done.code == 0, done.err[-3000:]
    assert done.out.count("test accuracy:") == 1
    assert "sync_dist" not in done.out + done.err


@pytest.mark.slow
def test_torchrun(words: list[str], workplace: Path, process: Process) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = process(*torchrun, str(ROOT / "train.py"), *words, PYTHONPATH=str(workplace))
    assert done.code == 0, done.err[-3000:]
    found = notes(workplace)
    assert sorted(note["rank"] for note in found) == [0, 1]
    assert len({note["folder"] for note in found}) == 1
    assert len(list(workplace.glob("runs/*/*"))) == 1
