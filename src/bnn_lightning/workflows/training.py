"""Training of a network: from sections of a configuration to checkpoints and scores."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.utilities import rank_zero_warn

from bnn_lightning.callbacks.checkpoint_io import CheckpointReadError, CheckpointWriteError
from bnn_lightning.callbacks.embed_config import EmbedConfig
from bnn_lightning.callbacks.frozen import FrozenNorms
from bnn_lightning.callbacks.nonfinite import NonFiniteLoss, NonFiniteLossError
from bnn_lightning.callbacks.tracking import Tracking
from bnn_lightning.layers.module_utils import freeze_
from bnn_lightning.metrics.profile import profile_line
from bnn_lightning.models.float_teachers import rebuilding
from bnn_lightning.tasks.classification import ClassificationTask
from bnn_lightning.utils.curves import read_last
from bnn_lightning.utils.text import some
from bnn_lightning.workflows import resumption
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
from bnn_lightning.workflows.checks_distill import check_distiller, check_turns
from bnn_lightning.workflows.checks_network import check_network
from bnn_lightning.workflows.compute import compute_line, keep_freed_memory
from bnn_lightning.workflows.ending import duration, end_only, explain_nonfinite
from bnn_lightning.workflows.errors import UserError, as_user_error, listed
from bnn_lightning.workflows.evaluation import left_out_by
from bnn_lightning.workflows.log_filters import silence
from bnn_lightning.workflows.messages import say
from bnn_lightning.workflows.opened import check_class_names, known_classes
from bnn_lightning.workflows.process_state import contained
from bnn_lightning.workflows.profiling import profile_config
from bnn_lightning.workflows.resumption import Resumption
from bnn_lightning.workflows.run_folder import held, note_job, refuse_other_run
from bnn_lightning.workflows.run_loggers import resumed_loggers
from bnn_lightning.workflows.settings import TrainSettings, make_settings, takes
from bnn_lightning.workflows.trainer import build_trainer
from bnn_lightning.workflows.training_config import check_needed, training_config

Plain = dict[str, Any]

# Keys of the run and not of the network: each stays out of the checkpoint's configuration.
_NOT_EMBEDDED = ("trust",)


@dataclass(frozen=True, repr=False)
class Trained:
    """Result of a training.

    Attributes:
        run_dir: Folder of the run: checkpoints, curves, logs.
        scores: Metrics by name, such as `val/acc` and `test/acc`, of the last epoch and the final test.
        seconds: Time that it took.
        task: The trained network in its task.
        notes: By split, what to know of its scores.
        warning: Message that the network is not binary yet; None if it is.
        objective: Value of the metric `objective`; None where none was named.
    """

    run_dir: Path
    scores: Mapping[str, float]
    seconds: float
    task: ClassificationTask
    notes: Mapping[str, str] = field(default_factory=dict)
    warning: str | None = None
    objective: float | None = None

    @property
    def checkpoint(self) -> Path | None:
        """File of the final weights; None where none were written."""
        path = self.run_dir / "checkpoints" / resumption.FINAL
        return path if path.is_file() else None

    def __repr__(self) -> str:
        splits = [split for split in ("val", "test") if f"{split}/acc" in self.scores]
        lines = [f"{split + ' accuracy:':<15} {accuracy(self.scores, split)}{self.notes[split]}" for split in splits]
        lines += [self.warning] if self.warning else []
        return "\n".join([*lines, f"{'time:':<15} {duration(self.seconds)}", f"{'run folder:':<15} {self.run_dir}"])


@dataclass
class TrainingRun:
    """Arguments of `trainer.fit`.

    Attributes:
        start: Training state that the run resumes from.
        finished: Whether there is nothing left to train; then the final weights are loaded, if they were written.
    """

    settings: TrainSettings
    trainer: Trainer
    task: ClassificationTask
    datamodule: LightningDataModule
    start: Resumption | None = None
    finished: bool = False


@takes(TrainSettings)
@contained()
def train(
    model: str | Plain,
    data: str | Plain,
    *,
    data_dir: str | Path | None = None,
    run_dir: str | Path | None = None,
    config: Plain | None = None,
    optimizer: Plain | None = None,
    param_groups: Plain | None = None,
    lr_scheduler: Plain | None = None,
    distill: Plain | None = None,
    task: Plain | None = None,
    trainer: Plain | None = None,
    callbacks: Plain | None = None,
    logger: Plain | None = None,
    **options: Any,
) -> Trained:
    """Train a network, and score it on the test set.

    A section without a `_target_` changes arguments of the default one, as in `optimizer={"lr": 3e-3}`.

    Args:
        model: Name of a backbone, its arguments with its `name` (`{"name": "mlp", "width": 256}`), or a section of a
            configuration. A checkpoint is rebuilt from it, so that it is no module.
        data: Name of a set, its arguments with its `name`, or a section of a configuration.
        data_dir: Folder of the data files; None: `BNN_DATA` of the environment, or "data".
        run_dir: Folder of the run, in which no other run lies; None: that of the run that `ckpt_path` resumes,
            or `<name>/<time>` in `BNN_RUNS` of the environment or in "runs".
        config: Composed configuration, which checkpoints hold and beside which no section has a default: see
            `bnn_lightning.cli.train.compose_training`.
        optimizer: Section; None: Adam.
        param_groups: Section; None: one weight decay for all parameters, 0.
        lr_scheduler: Section; None: warm-up and half a cosine.
        distill: Section; None trains with labels alone.
        task: Section; None: `ClassificationTask`.
        trainer: Arguments of Lightning's Trainer.
        callbacks: Section, a node each, beside checkpoints and random states.
        logger: Section, a node each, beside the CSV file.
        options: Keys of `TrainSettings`.

    Raises:
        UserError: Values or data that cannot be trained with, or a folder that holds another run; before training.

    Example:
        >>> train({"name": "mlp", "width": 64}, "digits", epochs=5, optimizer={"lr": 3e-3})  # doctest: +SKIP
        test accuracy:  top-1 91.11 %, top-5 99.17 % (loss 0.3023)
        time:           4 s
        run folder:     runs/mlp_digits/2026-01-01_12-00-00-000
    """
    started = time.monotonic()
    given = {"optimizer": optimizer, "param_groups": param_groups, "lr_scheduler": lr_scheduler, "distill": distill}
    given |= {"task": task, "trainer": trainer, "callbacks": callbacks, "logger": logger}
    settings = make_settings(TrainSettings, "train", **options)
    plain = training_config(
        settings, model, data, given, data_dir=data_dir, run_dir=run_dir, complete=config is not None
    )
    folder = Path(plain["paths"]["run_dir"])
    infos = plain["trainer"].get("enable_model_summary", True)
    with silence(infos=infos), held(folder, keep=False) as done, _closed_wandb():
        run = prepare(settings, plain, plain if config is None else config)
        scores = _fit(run)
        done.append(True)
    notes = {split: _note(run.trainer, split) for split in ("val", "test")}
    seconds, warning = time.monotonic() - started, relaxed(run.task.backbone)
    objective = _objective(settings, scores)
    return Trained(folder, scores, seconds, run.task, notes, warning, objective)


def accuracy(scores: Mapping[str, float], split: str) -> str:
    """Return top-1 and top-5 in percent.

    Example:
        >>> accuracy({"test/acc": 0.9722, "test/acc_top5": 1.0, "test/loss": 0.1}, "test")
        'top-1 97.22 %, top-5 100.00 % (loss 0.1000)'
    """
    top1, top5, loss = (scores[f"{split}/{name}"] for name in ("acc", "acc_top5", "loss"))
    return f"top-1 {100 * top1:.2f} %, top-5 {100 * top5:.2f} % (loss {loss:.4f})"


def _note(trainer: Trainer, split: str) -> str:
    cause = left_out_by(trainer, split)
    partial = "" if cause is None else f" PARTIAL: {cause} leaves images out"
    note = getattr(getattr(trainer, "datamodule", None), "test_note", None) if split == "test" else None
    return f"{partial} ({note})" if isinstance(note, str) else partial


def _fit(run: TrainingRun) -> dict[str, float]:
    """Train and score, with the errors that a user can mend in words."""
    try:
        with damaged_files():
            return _train(run)
    except (CheckpointReadError, CheckpointWriteError) as error:
        raise UserError(str(error)) from error
    except _wandb_errors() as error:
        raise UserError(f"wandb: {error} Log in (wandb login), or take logger.wandb.offline=true.") from error
    except NonFiniteLossError as error:
        raise UserError(explain_nonfinite(error, run.trainer)) from error


def _train(run: TrainingRun) -> dict[str, float]:
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


def _load_final(run: TrainingRun, start: Resumption, final: Path) -> dict[str, float]:
    """Load the final weights of a finished run; return its logged metrics."""
    say(f"The run is finished: nothing is trained, and {final} is scored.")
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


@contextmanager
def _closed_wandb() -> Iterator[None]:
    """Close the run of wandb that a training opens, and no other: the next job of a sweep is another run."""
    before = _wandb_run()
    try:
        yield
    finally:
        if (run := _wandb_run()) is not None and run is not before:
            run.finish()


def _wandb_run() -> Any:
    wandb = sys.modules.get("wandb")
    return None if wandb is None else wandb.run


def prepare(settings: TrainSettings, plain: Plain, config: Plain) -> TrainingRun:
    """Build all objects, and run every check that needs no training.

    Args:
        settings: Settings of the training.
        plain: See `training_config`.
        config: All that checkpoints say of the run.

    Raises:
        UserError: The configuration is wrong, or the folder holds another run.
    """
    trust, run_dir = settings.trust, Path(plain["paths"]["run_dir"])
    check_chosen(plain)
    check_sections(plain, trust=trust)
    check_needed(plain.get("callbacks"))
    check_trainer(plain["trainer"], settings.matmul_precision)
    start = resumption.find(settings.ckpt_path, run_dir, name=settings.name)
    if start is None or not start.in_place:
        refuse_other_run(run_dir)
    torch.set_float32_matmul_precision(settings.matmul_precision)
    seed_everything(settings.seed, workers=True, verbose=False)
    datamodule = build_datamodule(plain["data"], trust=trust)
    with rebuilding() if start is not None else nullcontext():  # its weights are in the checkpoint
        task = build_task(plain, trust=trust, read=partial(load_backbone, trust=trust))
    check_network(task.backbone, task.num_classes)
    _say_size(plain, trust)
    _freeze(task, settings.freeze)
    callbacks = _callbacks(plain, config, settings, start, known_classes(datamodule))
    check_selection(task, datamodule, callbacks, settings.objective)
    check_averages(task, callbacks)
    check_optimization(task)
    check_distiller(task, plain.get("distill"))
    _warn(check_compile(task, wanted=plain["task"].get("compile", False)))
    loggers = build_all(resumed_loggers(plain["logger"], run_dir, start), at="logger", trust=trust)
    trainer = build_trainer(plain["trainer"], callbacks=callbacks, loggers=loggers)
    _warn(check_binary_end(task, trainer.max_epochs))
    _warn(check_turns(task, trainer.max_epochs))
    say(compute_line(task, trainer))
    keep_freed_memory(trainer.strategy.root_device)
    check_sharding(trainer)
    check_data(datamodule, trainer, stage="fit")
    check_class_weights(task, datamodule, trainer)
    check_sizes(task, datamodule, plain["model"], trust=trust)
    run = TrainingRun(settings, trainer, task, datamodule, start)
    _take_weights(run, plain, config)
    return run


def _warn(warning: str | None) -> None:
    if warning is not None:
        rank_zero_warn(warning)


def _callbacks(
    plain: Plain, config: Plain, settings: TrainSettings, start: Resumption | None, class_names: Sequence[str]
) -> list[Callback]:
    """Return the callbacks of every run, and those of the configuration."""
    embedded = {key: value for key, value in config.items() if key not in _NOT_EMBEDDED}
    found: list[Callback] = [EmbedConfig(embedded, class_names)]
    found.append(Tracking(embedded, resumed=start is not None and start.in_place))
    found.append(LambdaCallback(setup=_take_folder))
    if settings.on_nonfinite != "ignore":
        found.append(NonFiniteLoss(settings.on_nonfinite))  # type: ignore[arg-type]
    found += [FrozenNorms()] if settings.freeze else []
    return found + build_all(plain.get("callbacks"), at="callbacks", trust=settings.trust)


def _take_folder(trainer: Trainer, task: LightningModule, stage: str) -> None:
    """Note the job in the run's folder: by the setup of a fit, all ranks have seen whose run it holds."""
    if stage == "fit":
        note_job(Path(trainer.default_root_dir))


def _say_size(plain: Mapping[str, Any], trust: list[str]) -> None:
    """Log the size of the network in one line."""
    try:
        line = profile_line(profile_config(plain["model"], plain["data"], trust=trust))
    except (UserError, RuntimeError):  # a network or data of the user's own that `bnn profile` cannot count
        return
    say(f"{plain['model'].get('name', 'network')}: {line}")


def _freeze(task: ClassificationTask, given: object) -> None:
    """Exclude parts of the network from training, and say which."""
    if given is None or given == []:
        return
    patterns = [given] if isinstance(given, str) else given
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise UserError(
            f"`freeze` must be a pattern or a list of patterns, as in freeze=[conv1,layer*], got {given!r}."
        )
    with as_user_error():
        frozen = freeze_(task.backbone, patterns)
    trained = [name for name, parameter in task.backbone.named_parameters() if parameter.requires_grad]
    if not trained:
        raise UserError(f"`freeze={given}` leaves no parameter to train.")
    say(f"Frozen: {len(frozen)} parameters ({some(frozen, 4)}); trained: {some(trained, 4)}.")


def _take_weights(run: TrainingRun, plain: Plain, config: Plain) -> None:
    """Resume from `ckpt_path`; where there is none, start from `init_from`."""
    if (start := run.start) is not None:
        check_class_names(embedded_classes(start.checkpoint), run.datamodule, start.path)
        say(resumption.check(run.task, start, config))
        run.finished = start.is_finished(run.trainer.max_epochs, run.trainer.max_steps)
        run.finished |= start.has_ended(config)
        if run.trainer.global_rank == 0 and not start.in_place:
            note_job(Path(run.trainer.default_root_dir))  # the curves make it the folder of this job's run
            resumption.copy_curves(start, Path(run.trainer.default_root_dir))
    elif run.settings.init_from is not None:
        say(resumption.start_from(run.task, run.settings.init_from, plain.get("model")))


def _objective(settings: TrainSettings, scores: dict[str, float]) -> float | None:
    if settings.objective is None:
        return None
    if settings.objective not in scores:
        raise UserError(f"`objective={settings.objective}` was not logged. There are: {listed(scores)}.")
    return scores[settings.objective]
