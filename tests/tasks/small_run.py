"""A small training run, in this process or (as a script) in one of its own."""

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import Checkpoint, EMAWeightAveraging
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from bnn_lightning.callbacks import (
    AtomicCheckpointIO,
    BiasClip,
    BNReestimate,
    EmbedConfig,
    FinalCheckpoint,
    FlipRateLogger,
    GradientShare,
    LastCheckpoint,
    RNGState,
)
from bnn_lightning.data import DigitsDataModule
from bnn_lightning.distill import SelfKD
from bnn_lightning.models import create_backbone
from bnn_lightning.optim import default_groups, warmup_cosine
from bnn_lightning.tasks import ClassificationTask


class JsonLogger(Logger):
    """Appends what is logged to a file, at once."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    name = property(lambda self: "json")
    version = property(lambda self: 0)
    save_dir = property(lambda self: str(self.path.parent))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step} | {name: float(value) for name, value in metrics.items()}) + "\n")


class Kill(Callback):
    """Ends the process, or raises, in the middle of an optimizer step."""

    def __init__(self, step: int, exception: type[BaseException] | None = None) -> None:
        self.step, self.exception = step, exception

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            if self.exception is not None:
                raise self.exception
            os.kill(os.getpid(), signal.SIGKILL)


class SignalRank(Callback):
    """Sends SIGTERM to one rank alone, in the middle of an optimizer step."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        if (trainer.global_rank, trainer.global_step) == (self.rank, self.step):
            signal.raise_signal(signal.SIGTERM)


class StopRank(Callback):
    """Stops the training on one rank alone, as a callback with a clock or a value of its own does."""

    def __init__(self, rank: int, step: int, hook: str) -> None:
        self.rank, self.step, self.hook = rank, step, hook

    def _stop(self, trainer: Trainer, hook: str) -> None:
        if (trainer.global_rank, hook) == (self.rank, self.hook) and trainer.global_step >= self.step:
            trainer.should_stop = True

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._stop(trainer, "on_train_batch_end")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop(trainer, "on_validation_end")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop(trainer, "on_train_epoch_end")


class EvalNorm(Callback):
    """Keeps batch normalization in evaluation, so that a batch may be cut into parts."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        for module in pl_module.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()


class RankLosses(Callback):
    """Writes the losses of this rank, and its final state, to files of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.losses: list[float] = []

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        self.losses.append(float(loss.detach()))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        result = {"losses": self.losses, "state": pl_module.state_dict()}
        torch.save(result, self.folder / f"rank{trainer.global_rank}of{trainer.world_size}.pt")


def build_task(
    data: DigitsDataModule,
    *,
    model: str,
    epochs: int,
    interval: str,
    distill: Mapping[str, Any] | None,
    backbone: dict[str, Any] | None,
    optimizer: Any = None,
    task_options: Mapping[str, Any] = MappingProxyType({}),
) -> ClassificationTask:
    options: dict[str, Any] = ({"width": 32} if model == "mlp" else {}) | (backbone or {})
    shape = {"num_classes": data.num_classes, "in_channels": data.in_channels, "image_size": data.image_size}
    pooling = "none" if model == "mlp" else "channel_spatial"
    distiller = None if distill is None else SelfKD(data.num_classes, **{"feature_pooling": pooling, **distill})
    return ClassificationTask(
        create_backbone(model, **shape, **options),
        num_classes=data.num_classes,
        optimizer=optimizer or partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        param_groups=partial(default_groups, weight_decay=1e-4, latent_weight_decay=0.0 if optimizer else None),
        lr_scheduler=partial(warmup_cosine, epochs=epochs, warmup_epochs=int(epochs > 1), interval=interval),
        distiller=distiller,
        progress_epochs=epochs,
        progress_interval=interval,
        **task_options,
    )


def small_run(
    folder: str | Path,
    *,
    model: str = "mlp",
    epochs: int = 3,
    interval: str = "epoch",
    distill: Mapping[str, Any] | None = MappingProxyType({}),
    backbone: dict[str, Any] | None = None,
    optimizer: Any = None,
    task_options: Mapping[str, Any] = MappingProxyType({}),
    batch_size: int = 256,
    every_n_steps: int | None = 2,
    ckpt_path: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    standard: bool = True,
    ema: bool = False,
    comparable: bool = False,
    kill_at: int | None = None,
    signal_at: tuple[int, int] | None = None,
    stop_at: tuple[int, int, str] | None = None,
    **trainer_options: Any,
) -> Trainer:
    """Train on digits and return the trainer; curves go to `metrics.jsonl` and checkpoints beside it.

    `callbacks` come before what writes checkpoints; without `standard` they are all there is. `comparable` keeps batch
    normalization in evaluation and writes the losses of each rank.
    """
    torch.set_num_threads(1)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    seed_everything(0, verbose=False)
    data = DigitsDataModule(batch_size=batch_size, image_size=8)
    task = build_task(
        data,
        model=model,
        epochs=epochs,
        interval=interval,
        distill=distill,
        backbone=backbone,
        optimizer=optimizer,
        task_options=task_options,
    )
    before = [
        BiasClip(),
        FlipRateLogger(),
        GradientShare(3),
        RNGState(),
        EmbedConfig({"model": model}),
        *([EMAWeightAveraging(decay=0.8, use_buffers=False), BNReestimate(2)] if ema else []),
    ]
    after = [LastCheckpoint(folder, every_n_steps=every_n_steps), FinalCheckpoint(folder)]
    if not standard:
        before, after = [], []
    if comparable:
        before += [EvalNorm(), RankLosses(folder)]
    if kill_at is not None:
        before.append(Kill(kill_at))
    if signal_at is not None:
        before.append(SignalRank(*signal_at))
    if stop_at is not None:
        before.append(StopRank(*stop_at))
    trainer = Trainer(
        **{
            "max_epochs": epochs,
            "accelerator": "cpu",
            "devices": 1,
            "logger": JsonLogger(folder / "metrics.jsonl"),
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "plugins": [AtomicCheckpointIO()],
            "callbacks": [*before, *callbacks, *after],
            "enable_checkpointing": bool(after) or any(isinstance(c, Checkpoint) for c in callbacks),
        }
        | trainer_options
    )
    trainer.fit(task, datamodule=data, ckpt_path=ckpt_path)
    return trainer


def curves(*folders: Path) -> dict[int, dict[str, float]]:
    """Return the logged metrics of each step, without times; runs that overlap must agree."""
    merged: dict[int, dict[str, float]] = {}
    for folder in folders:
        for line in (folder / "metrics.jsonl").read_text().splitlines():
            row = json.loads(line)
            row.pop("s_per_epoch", None)
            step = merged.setdefault(row.pop("step"), {})
            for name, value in row.items():
                assert step.setdefault(name, value) == value, f"{name} is {value}, and was {step[name]}"
    return merged


def assert_equal(left: Any, right: Any, where: str = "checkpoint") -> None:
    """Assert that two checkpoints are the same to the bit."""
    assert type(left) is type(right), where
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_equal(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            assert_equal(one, other, f"{where}[{index}]")
    elif isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype, where
        assert torch.equal(left, right), where
    else:
        assert left == right, where


if __name__ == "__main__":
    small_run(**json.loads(sys.argv[1]))
