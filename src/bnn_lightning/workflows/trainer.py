"""Trainers from plain containers, and the one loop over images that scores and measures networks."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from lightning_fabric.plugins import CheckpointIO
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelSummary, ProgressBar
from pytorch_lightning.loggers import Logger
from pytorch_lightning.profilers import PassThroughProfiler

from bnn_lightning.callbacks.checkpoint_io import AtomicCheckpointIO
from bnn_lightning.callbacks.summary import NetworkSummary
from bnn_lightning.workflows.building import Node, build, call
from bnn_lightning.workflows.checks import check_data, damaged_files
from bnn_lightning.workflows.errors import UserError

# Trainer that scores every image once, on one device, and says nothing.
SCORING_TRAINER = {
    "_target_": "pytorch_lightning.Trainer",
    "accelerator": "auto",
    "devices": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "logger": False,
}


def build_trainer(config: Node, *, callbacks: Sequence[Callback], loggers: Sequence[Logger]) -> Trainer:
    """Build `trainer`.

    Raises:
        UserError: Arguments that Lightning refuses, in its words; or a file in its folder that it would load unasked.
    """
    if not config.get("enable_progress_bar", True):  # Lightning refuses a bar beside it
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    if config.get("enable_model_summary", True) and not any(isinstance(c, ModelSummary) for c in callbacks):
        callbacks = [*callbacks, NetworkSummary()]
    plugins = [build(node, at="trainer.plugins") for node in config.get("plugins") or []]
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(AtomicCheckpointIO())  # a checkpoint is whole or not there, whatever the option says
    config = {**config, "enable_model_summary": False}  # Lightning's own, beside which it announces ours
    parts: dict[str, Any] = {"callbacks": list(callbacks), "logger": list(loggers) or False, "plugins": plugins}
    if config.get("profiler") is None:
        parts["profiler"] = _Unprofiled()
    trainer: Trainer = call(config, parts, at="trainer")
    _refuse_requeued(trainer)
    return trainer


def show_images(
    module: LightningModule,
    datamodule: Any,
    trainer: dict[str, Any],
    *,
    stage: Literal["validate", "test"] = "test",
    images: int | None = None,
    callbacks: Sequence[Callback] = (),
) -> Trainer:
    """Show the images of a split to a module, and return the trainer, which holds the metrics.

    Args:
        module: Its step takes images and labels.
        datamodule: Data module with the images.
        trainer: Section of a configuration.
        stage: Split.
        images: Number of test images, in whole batches; None takes all.
        callbacks: Callbacks of the trainer.

    Raises:
        UserError: Missing or damaged files.
    """
    if images is not None:
        trainer = trainer | {"limit_test_batches": max(1, -(-images // datamodule.eval_batch_size))}
    runner = build_trainer(trainer, callbacks=callbacks, loggers=[])
    check_data(datamodule, runner, stage=stage)
    with damaged_files():
        (runner.test if stage == "test" else runner.validate)(module, datamodule=datamodule, verbose=False)
    return runner


def _refuse_requeued(trainer: Trainer) -> None:
    """Refuse checkpoints that Lightning's own requeueing has saved in the middle of a step.

    In a SLURM job Lightning loads it in place of the weights that it is given, for training and for scoring.
    """
    if not SLURMEnvironment.detect():
        return
    for path in sorted(Path(trainer.default_root_dir).glob("*hpc_ckpt_*")):
        raise UserError(
            f"`{path}` was saved by Lightning when it requeued a job, and would be loaded in place of this network's "
            "weights. Move it to another folder; a run that was requeued then resumes from its own last.ckpt."
        )


class _Unprofiled(PassThroughProfiler):
    """No profiler, at a sixth of the time of Lightning's: a step enters about 180 of its contexts."""

    # Lightning's is the context of a generator, which costs that time; nobody reads the value that it yields.
    def profile(self, action_name: str) -> nullcontext[None]:  # type: ignore[override]
        return _NOTHING


_NOTHING = nullcontext()
