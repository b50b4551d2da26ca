"""One training run: from a composed configuration to checkpoints, scores and a summary."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, LightningDataModule, Trainer, seed_everything
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from bnn_lightning.callbacks.checkpoint_io import CheckpointReadError, CheckpointWriteError
from bnn_lightning.callbacks.embed_config import EmbedConfig
from bnn_lightning.callbacks.frozen import FrozenNorms
from bnn_lightning.callbacks.nonfinite import NonFiniteLoss, NonFiniteLossError
from bnn_lightning.callbacks.tracking import Tracking
from bnn_lightning.cli import resume
from bnn_lightning.cli.facts import take_facts
from bnn_lightning.cli.launch import is_sweep, pass_to_workers, refuse_multi_node_sweep
from bnn_lightning.cli.loggers import logger_nodes
from bnn_lightning.cli.own_folder import own_targets
from bnn_lightning.cli.recipes import announce_recipe
from bnn_lightning.cli.resume import Resumption
from bnn_lightning.cli.schema import read_settings
from bnn_lightning.cli.summary import print_interrupted, print_summary
from bnn_lightning.layers.module_utils import freeze_
from bnn_lightning.metrics.profile import profile_line
from bnn_lightning.models.float_teachers import rebuilding
from bnn_lightning.models.published_file import some
from bnn_lightning.tasks.classification import ClassificationTask
from bnn_lightning.utils.curves import read_last
from bnn_lightning.workflows.building import build_all, build_datamodule, build_task, check_chosen, check_sections
from bnn_lightning.workflows.checkpoint import embedded_classes, load_backbone, read_checkpoint
from bnn_lightning.workflows.checks import (
    check_averages,
    check_binary_end,
    check_class_weights,
    check_compile,
    check_data,
    check_optimization,
    check_selection,
    check_sharding,
    check_sizes,
    check_trainer,
    damaged_files,
    relaxed,
)
from bnn_lightning.workflows.checks_callbacks import check_needed
from bnn_lightning.workflows.checks_distill import check_distiller, check_turns
from bnn_lightning.workflows.compute import compute_line
from bnn_lightning.workflows.ending import end_only, explain_nonfinite
from bnn_lightning.workflows.errors import UserError, listed
from bnn_lightning.workflows.log_filters import silence
from bnn_lightning.workflows.opened import check_class_names, known_classes
from bnn_lightning.workflows.profiling import profile_config
from bnn_lightning.workflows.settings import RunSettings
from bnn_lightning.workflows.trainer import build_trainer

# Keys of the run and not of the network: each stays out of the checkpoint's configuration.
_NOT_EMBEDDED = ("trust",)


@dataclass
class Run:
    """Arguments of `trainer.fit`.

    Attributes:
        start: Checkpoint that the run resumes from.
        finished: Whether there is nothing left to train; then the final weights are loaded, if they were written.
    """

    settings: RunSettings
    trainer: Trainer
    task: ClassificationTask
    datamodule: LightningDataModule
    start: Resumption | None = None
    finished: bool = False


def fit(config: DictConfig) -> float | None:
    """Train, score the test set, and say what came out.

    Args:
        config: As composed by Hydra from `train.yaml`.

    Returns:
        The value of `objective`, for a sweep.

    Raises:
        UserError: The configuration is wrong; raised before training starts.
    """
    started = time.monotonic()
    run = prepare(config)
    try:
        with damaged_files():
            scores = _train(run)
    except (CheckpointReadError, CheckpointWriteError) as error:
        raise UserError(str(error)) from error
    except _wandb_errors() as error:
        raise UserError(f"wandb: {error} Log in (wandb login), or take logger.wandb.offline=true.") from error
    except NonFiniteLossError as error:
        raise UserError(explain_nonfinite(error, run.trainer)) from error
    except SystemExit:  # what Lightning makes of Ctrl-C and SIGTERM
        print_interrupted(run.trainer)
        raise
    finally:
        _finish_wandb()
    print_summary(run.trainer, scores, seconds=time.monotonic() - started, warning=relaxed(run.task.backbone))
    return _objective(run.settings, scores)


def _train(run: Run) -> dict[str, float]:
    if run.finished and run.start is not None and (final := run.start.final()) is not None:
        scores = _load_final(run, run.start, final)
    else:
        if run.finished:
            end_only(run.trainer)
        path = None if run.start is None else str(run.start.path)
        run.trainer.fit(run.task, datamodule=run.datamodule, ckpt_path=path, weights_only=True)
        scores = {name: float(value) for name, value in run.trainer.callback_metrics.items()}
    if run.settings.test:
        scores |= dict(run.trainer.test(run.task, datamodule=run.datamodule, verbose=False)[0])
    return scores


def _load_final(run: Run, start: Resumption, final: Path) -> dict[str, float]:
    """Load the weights that a finished run has come to; return what it has logged."""
    rank_zero_info(f"The run is finished: nothing is trained, and {final} is scored.")
    run.task.load_state_dict(read_checkpoint(final)["state_dict"])
    run.trainer.fit_loop.load_state_dict(start.checkpoint["loops"]["fit_loop"])  # scores are logged at its end
    run.trainer.fit_loop.epoch_progress.current.completed = start.progress["processed"]
    try:
        return read_last(run.trainer.default_root_dir)
    except ValueError:
        return {}


def _wandb_errors() -> tuple[type[Exception], ...]:
    wandb = sys.modules.get("wandb")  # imported by its logger only
    return () if wandb is None else (wandb.Error,)


def _finish_wandb() -> None:
    # The next job of a sweep is another run; wandb would go on with this one.
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()


def prepare(config: DictConfig) -> Run:
    """Build everything, and check what can be checked before training starts.

    Args:
        config: As composed by Hydra from `train.yaml`.

    Raises:
        UserError: The configuration is wrong.
    """
    _check_trust(config)
    _place(config)
    settings, own = read_settings(RunSettings, config), own_targets()
    announce_recipe(config)
    take_facts(config)
    plain = _resolve(config)
    check_sections(plain, trust=own)
    check_needed(plain.get("callbacks"))
    refuse_multi_node_sweep(plain["trainer"].get("num_nodes", 1))
    check_trainer(plain["trainer"], settings.matmul_precision)
    silence()
    torch.set_float32_matmul_precision(settings.matmul_precision)
    seed_everything(settings.seed, workers=True, verbose=False)
    datamodule = build_datamodule(plain["data"], trust=own)
    with rebuilding() if settings.ckpt_path is not None else nullcontext():  # its weights are in the checkpoint
        task = build_task(plain, trust=own, read=partial(load_backbone, trust=settings.trust))
    _say_size(plain, own)
    _freeze(task, plain.get("freeze"))
    run_dir = Path(plain["paths"]["run_dir"])
    start = resume.find(settings.ckpt_path, run_dir, name=settings.name, in_sweep=is_sweep())
    callbacks = _callbacks(plain, settings, start, known_classes(datamodule))
    check_selection(task, datamodule, callbacks, settings.objective)
    check_averages(task, callbacks)
    check_optimization(task)
    check_distiller(task, plain.get("distill"))
    _warn(check_compile(task, wanted=plain["task"].get("compile", False)))
    loggers = build_all(logger_nodes(plain, start), at="logger", trust=own)
    trainer = build_trainer(plain["trainer"], callbacks=callbacks, loggers=loggers)
    _warn(check_binary_end(task, trainer.max_epochs))
    _warn(check_turns(task, trainer.max_epochs))
    rank_zero_info(compute_line(task, trainer))
    check_sharding(trainer)
    check_data(datamodule, trainer, stage="fit")
    check_class_weights(task, datamodule, trainer)
    check_sizes(task, datamodule, plain["model"], trust=own)
    run = Run(settings, trainer, task, datamodule, start)
    _take_weights(run, plain)
    return run


def _warn(warning: str | None) -> None:
    if warning is not None:
        rank_zero_warn(warning)


def _callbacks(
    plain: Mapping[str, Any], settings: RunSettings, start: Resumption | None, class_names: Sequence[str]
) -> list[Callback]:
    """Return what every run has, and what the configuration names."""
    embedded = {key: value for key, value in plain.items() if key not in _NOT_EMBEDDED}
    found: list[Callback] = [EmbedConfig(embedded, class_names)]
    found.append(Tracking(embedded, resumed=start is not None and start.in_place))
    if settings.on_nonfinite != "ignore":
        found.append(NonFiniteLoss(settings.on_nonfinite))  # type: ignore[arg-type]
    found += [FrozenNorms()] if plain.get("freeze") else []
    return found + build_all(plain.get("callbacks"), at="callbacks", trust=own_targets())


def _say_size(plain: Mapping[str, Any], trust: list[str]) -> None:
    """Say in a line what the network is made of."""
    try:
        line = profile_line(profile_config(plain["model"], plain["data"], trust=trust))
    except (UserError, RuntimeError):  # a network or data of the user's own that `bnn profile` cannot count
        return
    rank_zero_info(f"{plain['model'].get('name', 'network')}: {line}")


def _freeze(task: ClassificationTask, given: object) -> None:
    """Exclude parts of the network from training, and say which."""
    if given is None or given == []:
        return
    patterns = [given] if isinstance(given, str) else given
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise UserError(
            f"`freeze` must be a pattern or a list of patterns, as in freeze=[conv1,layer*], got {given!r}."
        )
    try:
        frozen = freeze_(task.backbone, patterns)
    except ValueError as error:
        raise UserError(str(error)) from error
    trained = [name for name, parameter in task.backbone.named_parameters() if parameter.requires_grad]
    if not trained:
        raise UserError(f"`freeze={given}` leaves no parameter to train.")
    rank_zero_info(f"Frozen: {len(frozen)} parameters ({some(frozen, 4)}); trained: {some(trained, 4)}.")


def _take_weights(run: Run, plain: Mapping[str, Any]) -> None:
    """Resume from `ckpt_path`; where there is none, start from `init_from`."""
    if (start := run.start) is not None:
        check_class_names(embedded_classes(start.checkpoint), run.datamodule, start.path)
        rank_zero_info(resume.check(run.task, start, plain))
        run.finished = start.is_finished(run.trainer.max_epochs, run.trainer.max_steps)
        if run.trainer.global_rank == 0:
            resume.copy_curves(start, Path(run.trainer.default_root_dir))
        pass_to_workers("ckpt_path", str(start.path))
    elif run.settings.init_from is not None:
        rank_zero_info(resume.start_from(run.task, run.settings.init_from, plain.get("model")))


def _place(config: DictConfig) -> None:
    """Say in `paths.run_dir` where the run's own folder is, where Hydra runs the job."""
    # Hydra's record outlives its job: in a notebook or a test, one that only printed a configuration has no folder.
    if HydraConfig.initialized() and not OmegaConf.is_missing(HydraConfig.get().runtime, "output_dir"):
        for override in HydraConfig.get().overrides.task:
            key, _, folder = override.lstrip("+").partition("=")
            if key == "paths.run_dir":
                raise UserError(f"`{override}`: the folder of a run is given by hydra.run.dir={folder}.")
        OmegaConf.update(config, "paths.run_dir", _relative(HydraConfig.get().runtime.output_dir))


def _resolve(config: DictConfig) -> dict[str, Any]:
    check_chosen(config)
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _relative(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def _check_trust(config: DictConfig) -> None:
    """See that `trust` comes from the command line: a file could come from elsewhere."""
    if not config.get("trust") or not HydraConfig.initialized():
        return
    overrides = HydraConfig.get().overrides.task
    if not any(override.lstrip("+").startswith("trust=") for override in overrides):
        raise UserError(f"`trust` is taken from the command line only: give trust={config.trust} there.")


def _objective(settings: RunSettings, scores: dict[str, float]) -> float | None:
    if settings.objective is None:
        return None
    if settings.objective not in scores:
        raise UserError(f"`objective={settings.objective}` was not logged. There are: {listed(scores)}.")
    return scores[settings.objective]
