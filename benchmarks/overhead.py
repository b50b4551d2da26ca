"""Processor time of a training step besides its network: hooks, callbacks and logging, on MNIST's MLP.

    python -m benchmarks.overhead --repeats 3

Trains the MLP of `bnn train model=mlp` on made-up images of MNIST's size with all that a run has (callbacks, CSV file),
and the same network on the same batches in a plain loop. Both on one thread, in turns; a step counts as the 5th
percentile of its epoch, which other processes disturb least. The width is small: the network is not what is measured.
"""

import argparse
import contextlib
import io
import tempfile
import time
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from pytorch_lightning import Callback

from benchmarks import timing
from benchmarks.timing import machine
from bnn_lightning.cli.config_paths import config_dir
from bnn_lightning.cli.schema import read_settings
from bnn_lightning.cli.train import training_arguments
from bnn_lightning.models import create_backbone
from bnn_lightning.workflows.settings import TrainSettings
from bnn_lightning.workflows.training import TrainingRun, prepare

WIDTH, STEPS, BATCH = 64, 234, 256
AIM = 1.0  # ms


class Clock(Callback):
    """Notes the processor time at the start of each step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.times.append(time.process_time())


def milliseconds(times: list[float]) -> float:
    """Return the 5th percentile of the steps between these times, without the first tenth of them."""
    steps = [after - before for before, after in pairwise(times)][len(times) // 10 :]
    return 1e3 * sorted(steps)[len(steps) // 20]


def make_run(folder: str) -> TrainingRun:
    """Return a run of one epoch as `bnn train` prepares it."""
    words = ["model=mlp", "data=synthetic", "data.in_channels=1", "data.image_size=28", "recipe=none", "distill=none"]
    words += [f"data.num_train={STEPS * BATCH}", "data.num_test=10", f"data.batch_size={BATCH}", "epochs=1"]
    words += [f"model.width={WIDTH}", "trainer.limit_val_batches=0", "trainer.enable_progress_bar=false"]
    words += ["trainer.accelerator=cpu", "trainer.enable_model_summary=false", f"paths.run_dir={folder}"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("train", words)
    plain = training_arguments(config)["config"]
    return prepare(read_settings(TrainSettings, config), plain, plain)


def time_run(run: TrainingRun) -> float:
    """Return the milliseconds of a step of a whole run."""
    clock = Clock()
    # Lightning sets the list, and declares it nowhere.
    run.trainer.callbacks.append(clock)  # type: ignore[attr-defined]
    run.trainer.fit(run.task, datamodule=run.datamodule)
    return milliseconds(clock.times)


def time_loop(run: TrainingRun) -> float:
    """Return the milliseconds of a step of a plain loop, with the batches of a run."""
    network = create_backbone("mlp", num_classes=10, in_channels=1, image_size=28, width=WIDTH)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    data: Any = run.datamodule
    times = []
    for images, labels in data.batches(data.train_dataloader()):
        times.append(time.process_time())
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return milliseconds(times)


def main() -> None:
    """Print one line."""
    args: argparse.Namespace = timing.parse(__doc__, [], unused=timing.FLAGS)
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {"run": [], "loop": []}
    for _ in range(max(1, args.repeats // 2)):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            run = make_run(folder)
            found["run"].append(time_run(run))
            found["loop"].append(time_loop(run))
    whole, plain = (min(values) for values in found.values())
    print(f"{machine()}, one thread")
    print(f"  step of a run {whole:.2f} ms, of a plain loop {plain:.2f} ms of processor time")
    print(f"  hooks, callbacks, logging: {whole - plain:.2f} ms a step (aim: below {AIM:.0f})")


if __name__ == "__main__":
    main()
