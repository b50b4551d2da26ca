"""Kill trainings at random moments and resume them, until they end; compare them with those that nobody killed.

    make kills ARGS="--kills 100 --seed 0"

Each process is killed with SIGKILL, with its workers, after a random time of up to the length of the whole training,
and resumed by `ckpt_path=last`. A training that has come to its end is equal to the uninterrupted one if all of these
are: every tensor of `final.ckpt`; everything in `last.ckpt` (weights, averages, optimizer, schedule, random states,
unlogged metrics); and every number of the CSV file but for times. Prints a line a case; exits with 1 at a difference.
"""

import argparse
import csv
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import bnn_lightning.workflows.training  # noqa: F401 - imported once, before the processes part
from bnn_lightning.cli import train

ROOT = Path(__file__).resolve().parents[1]
NET = ("data=digits", "data.num_workers=0", "model=resnet20", "model.width=4", "trainer.limit_train_batches=12")
QUIET = ("trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.enable_model_summary=false")
OFTEN = ("callbacks.last_checkpoint.every_n_steps=5", "trainer.log_every_n_steps=3", "epochs=4")
CASES = {
    "skd": ("distill=skd", "task.mix=null"),
    "ema": ("callbacks=[default,ema]", "callbacks.ema.decay=0.9", "callbacks.bn_reestimate.num_batches=6"),
    "ddp": ("distill=skd", "trainer.devices=2", "strategy=ddp"),
    "sweep": ("seed=1,2", "callbacks=[default,ema]", "distill=skd"),
}
# Times, and the places of a training.
UNLIKE = ("s_per_epoch", "run_dir", "dirpath", "ckpt_path", "default_root_dir", "save_dir")
SHARES = {"skd": 30, "ema": 30, "ddp": 15, "sweep": 25}  # of 100 kills


def start(words: list[str], log: Path) -> int:
    """Run `python train.py <words>` in a process group of its own, forked from this process."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        sys.argv = [str(ROOT / "train.py"), *words]
        train.main()
        code = 0
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(child: int, seconds: float) -> int | None:
    """Return the exit status of a process; None if it was killed after some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def words_of(case: str, folder: Path) -> list[str]:
    """Return the command line of a training."""
    words = [*NET, *QUIET, *OFTEN, *CASES[case]]
    return ["-m", *words, f"hydra.sweep.dir={folder}"] if case == "sweep" else [*words, f"hydra.run.dir={folder}"]


def run_once(case: str, folder: Path, log: Path) -> float:
    """Train without a kill; return the seconds that it took."""
    begun = time.monotonic()
    code = wait(start(words_of(case, folder), log), 600)
    if code != 0:
        print(log.read_text(errors="replace")[-3000:])
        raise SystemExit(f"{case}: the uninterrupted training ended with {code}")
    return time.monotonic() - begun


def run_killed(case: str, folder: Path, log: Path, seconds: float, most: int, draw: random.Random) -> int:
    """Train with at most `most` kills; return how many there were."""
    kills = 0
    while True:
        words = words_of(case, folder)
        if any(folder.rglob("last.ckpt")):
            words.append("ckpt_path=last")
        elif folder.exists():
            shutil.rmtree(folder)  # nothing to go on from
        limit = draw.uniform(0, seconds) if kills < most else 600.0
        code = wait(start(words, log), limit)
        if code == 0:
            return kills
        if code is not None:
            print(log.read_text(errors="replace")[-3000:])
            raise SystemExit(f"{case}: resumed after {kills} kills, it ended with {code}")
        kills += 1


def differences(a: Path, b: Path) -> Iterator[str]:
    """Yield in what two folders of trainings differ."""
    runs = [{path.parent.parent.relative_to(folder) for path in folder.rglob("final.ckpt")} for folder in (a, b)]
    if runs[0] != runs[1] or not runs[0]:
        yield f"runs: {runs}"
        return
    for run in sorted(runs[0]):
        for name in ("final", "last"):
            file = run / "checkpoints" / f"{name}.ckpt"
            yield from unequal(*(torch.load(folder / file, weights_only=True) for folder in (a, b)), f"{run}/{name}")
        first, second = (rows(folder / run) for folder in (a, b))
        yield from unequal(first, second, f"{run}/metrics.csv")


def unequal(a: Any, b: Any, at: str) -> Iterator[str]:
    """Yield the places in which two values made of containers and tensors differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys([*a, *b]):
            if key not in UNLIKE:
                yield from unequal(a.get(key), b.get(key), f"{at}.{key}")
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for index, pair in enumerate(zip(a, b, strict=True)):
            yield from unequal(*pair, f"{at}[{index}]")
    elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if not torch.equal(a, b):
            yield at
    elif a != b:
        yield f"{at}: {str(a)[:80]} != {str(b)[:80]}"


def rows(run: Path) -> list[dict[str, str]]:
    """Return the rows of a run's CSV file."""
    (file,) = run.glob("csv/*/metrics.csv")
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def main() -> None:
    """Run the cases that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(arguments.seed)
    shares = sum(SHARES[case] for case in arguments.cases)
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        os.symlink(ROOT / "data", "data") if (ROOT / "data").exists() else None
        for case in arguments.cases:
            wanted = -(-arguments.kills * SHARES[case] // shares)
            log, whole = Path(f"{case}.log").absolute(), Path(case, "whole")
            seconds = run_once(case, whole, log)
            kills = number = 0
            while kills < wanted:
                number += 1
                folder = Path(case, str(number))
                kills += run_killed(case, folder, log, seconds, wanted - kills, draw)
                if found := list(differences(whole, folder)):
                    print(f"{case}: training {number} differs: {'; '.join(found[:5])}")
                    raise SystemExit(1)
            print(f"{case}: {kills} kills in {number} trainings, all equal to the uninterrupted one", flush=True)


if __name__ == "__main__":
    main()
