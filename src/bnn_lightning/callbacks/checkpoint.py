"""Checkpoints of a run: full training state, best weights, final weights."""

import os
import signal
import time
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from bnn_lightning.callbacks.interrupt import StopRequest, requeue, take_requeueing
from bnn_lightning.callbacks.while_binary import WhileBinary
from bnn_lightning.loggers.csv_file import CSVLogger

# Batches between two questions to all ranks whether to save or stop, where there is more than one.
RANKS_AGREE_EVERY = 16
# Metrics of `ClassificationTask` that differ between two runs of one seed.
TIMES = frozenset({"s_per_epoch"})


class OneFile(ModelCheckpoint):
    """A checkpoint callback that writes one file, in the folder that `ModelCheckpoint` would choose.

    Args:
        dirpath: Folder; None takes Lightning's choice.
        filename: Without ".ckpt".
        weights_only: Leave out optimizer, learning-rate scheduler and callbacks.
    """

    def __init__(self, dirpath: str | Path | None, *, filename: str, weights_only: bool) -> None:
        super().__init__(dirpath=dirpath, filename=filename, save_top_k=0, save_weights_only=weights_only)

    @property
    def path(self) -> str:
        """Path of the file, written or not."""
        return os.path.join(self.dirpath or "", f"{self.filename}{self.FILE_EXTENSION}")

    def save(self, trainer: Trainer) -> None:
        """Write the file; on all ranks. Loggers are flushed first, so that a resumed run's curves have no gap."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        for logger in trainer.loggers:
            logger.save()
        self._save_checkpoint(trainer, self.path)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Do nothing; nor do the other hooks that `ModelCheckpoint` saves in."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do nothing."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing."""


class LastCheckpoint(OneFile):
    """Keep one file to resume from, `last.ckpt`: written after an epoch, every so often within it, and on Ctrl-C.

    What is saved is always the state between two optimizer steps, so that the resumed run is the uninterrupted one to
    the bit. (Lightning's `ModelCheckpoint` may save after the last step of an epoch, and then goes on with the next one
    without having ended it; with `save_on_exception` it may save in the middle of a step.)

    Ctrl-C and SIGTERM stop the training after the running step; pressed again, at once, and the file of the last
    regular save stays. The signal that SLURM sends before a time limit stops it, too, and the job is requeued, in place
    of Lightning's own requeueing, which saves in the middle of a step: `trainer.fit(..., ckpt_path="last")` resumes.
    After the last step, and while a network is scored, it is requeued at once.

    Where `max_steps` or `max_time` ends the training within an epoch, a resumed run with a larger limit goes on within
    it; a validation that falls on that step is not repeated. An epoch in which a validation stops the training (early
    stopping with `val_check_interval`) counts as ended. With several ranks, a callback that sets `should_stop` on one
    of them stops all, after 16 steps at most.

    Args:
        dirpath: Folder; None takes Lightning's choice.
        every_n_epochs: Epochs between two saves; the last epoch is always saved.
        every_n_steps: Optimizer steps between two saves within an epoch; None saves at its end only.
        every_n_minutes: As `every_n_steps`, by the clock.

    Raises:
        ValueError: An interval that is not positive.
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        *,
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
        every_n_minutes: float | None = None,
    ) -> None:
        intervals = {
            "every_n_epochs": every_n_epochs,
            "every_n_steps": every_n_steps,
            "every_n_minutes": every_n_minutes,
        }
        for name, value in intervals.items():
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` must be positive, got {value}.")
        super().__init__(dirpath, filename=self.CHECKPOINT_NAME_LAST, weights_only=False)
        self.epochs, self.steps, self.minutes = every_n_epochs, every_n_steps, every_n_minutes
        self.stop = StopRequest()
        self._due = self._stopping = self._held = self._cut = False
        self._saved_at = 0.0
        self._requeue_signal: signal.Signals | None = None
        self._unlogged: dict[str, Any] = {}  # what is logged right after the checkpoint, for a run that is killed then

    def save(self, trainer: Trainer) -> None:
        self._unlogged = pending_row(trainer)
        super().save(trainer)
        self._due, self._saved_at = False, time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"unlogged": self._unlogged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._unlogged = state_dict.get("unlogged", {})

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.stop.signum = 0
        self._requeue_signal = take_requeueing(trainer) or self._requeue_signal
        if self._requeue_signal is None:
            return
        if stage == "fit":
            self.stop.listen(self._requeue_signal)
        else:
            self.stop.requeue_on(self._requeue_signal)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        log_again(trainer, self._unlogged)
        self._due = self._stopping = self._held = self._cut = False
        self._saved_at = time.monotonic()
        self.stop.listen(signal.SIGINT, signal.SIGTERM)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:  # the metrics of an epoch are logged after its checkpoint
            logger.save()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._stopping:  # only now, as the metrics of a step or an epoch are logged after its checkpoint
            self._leave(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Gradients that are accumulated so far are not in a checkpoint: who stops the training waits for the step; and
        # for the other ranks, which would wait for this one in their next step.
        self._held, trainer.should_stop = self._held or trainer.should_stop, False
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not trainer.is_last_batch:
            return
        if self._do_ranks_meet(trainer, batch_idx):
            trainer.should_stop, self._held = any_rank(trainer, self._held), False
        cut = is_limit_reached(trainer)
        stepped = trainer.global_step % self.steps == 0 if self.steps else False
        self._due = self._due or cut or stepped or self._is_late(trainer, batch_idx)
        if self._due and not trainer.is_last_batch and (cut or not self._is_validation_next(trainer, batch_idx)):
            self.save(trainer)
            self._stopping, self._cut = self.stop.agreed(pl_module.device), cut

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = any_rank(trainer, trainer.should_stop)  # set by a callback that watches a metric

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = any_rank(trainer, trainer.should_stop)
        self._stopping = self.stop.agreed(pl_module.device)
        epoch = trainer.current_epoch + 1
        is_last = epoch == trainer.max_epochs or trainer.should_stop
        if self._cut:
            return  # saved as the epoch that it is the start of
        if self._stopping or self._due or is_last or epoch % self.epochs == 0:
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._requeue_signal is not None:
            self.stop.requeue_on(self._requeue_signal)
        self.stop.ignore(signal.SIGINT, signal.SIGTERM)
        if self.stop.agreed(pl_module.device):  # after the last step, of which `last.ckpt` is
            self._leave(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.stop.ignore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.stop.ignore()

    def _leave(self, trainer: Trainer) -> None:
        """Stop as a signal has asked for; on all ranks."""
        if self.stop.signum == self._requeue_signal:
            if trainer.is_global_zero:
                requeue()
            trainer.strategy.barrier()  # a rank that has ended may end the whole job
        raise self.stop.exception()

    def _is_late(self, trainer: Trainer, batch_idx: int) -> bool:
        """Whether the clock or a signal asks for a save, on any rank."""
        late = self.minutes is not None and time.monotonic() - self._saved_at > 60 * self.minutes
        if trainer.world_size == 1:
            return late or self.stop.signum != 0
        if (batch_idx + 1) // trainer.accumulate_grad_batches % RANKS_AGREE_EVERY:
            return False
        stopping = self.stop.agreed(trainer.strategy.root_device)
        return stopping or any_rank(trainer, late)

    @staticmethod
    def _do_ranks_meet(trainer: Trainer, batch_idx: int) -> bool:
        """Whether the ranks agree after this step on whether to stop: always where there is one."""
        step = (batch_idx + 1) // trainer.accumulate_grad_batches
        return trainer.world_size == 1 or trainer.is_last_batch or step % RANKS_AGREE_EVERY == 0

    @staticmethod
    def _is_validation_next(trainer: Trainer, batch_idx: int) -> bool:
        """Whether a validation within the epoch follows this batch: Lightning leaves it out when it resumes here."""
        every = trainer.val_check_batch
        if not isinstance(every, int):
            return False
        time = trainer.fit_loop.total_batch_idx if trainer.check_val_every_n_epoch is None else batch_idx
        return (time + 1) % every == 0


def any_rank(trainer: Trainer, decision: bool) -> bool:
    """Whether any rank has decided so; to be called on all of them."""
    return decision if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(decision, all=False)


def pending_row(trainer: Trainer) -> dict[str, Any]:
    """Return the metrics that Lightning logs after the running hook, at the end of an epoch or a step; on all ranks.

    Times are left out: runs of one seed have equal checkpoints.
    """
    connector = trainer._logger_connector
    within = connector._first_loop_iter is not None
    if within and not connector.should_update_logs:
        return {}
    step = trainer.fit_loop.epoch_loop._batches_that_stepped - (0 if within else 1)
    logged = connector.metrics["log"].items()
    metrics = {name: float(value) for name, value in logged if name not in TIMES}
    return {"metrics": metrics, "epoch": trainer.current_epoch, "step": step} if metrics else {}


def log_again(trainer: Trainer, row: dict[str, Any]) -> None:
    """Log a row of the checkpoint that a run resumes from, unless its CSV file says that this was done."""
    if not row or any(isinstance(log, CSVLogger) and log.holds(row["step"], row["metrics"]) for log in trainer.loggers):
        return
    for logger in trainer.loggers:
        logger.log_metrics({**row["metrics"], "epoch": row["epoch"]}, step=row["step"])


def is_limit_reached(trainer: Trainer) -> bool:
    """Whether the training ends after this step: `max_steps`, or what has set `should_stop`, such as `max_time`."""
    return 0 <= trainer.max_steps <= trainer.global_step or (trainer.should_stop and trainer.fit_loop._can_stop_early)


class BestCheckpoint(WhileBinary, ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, which passes over epochs in which the network is not binary yet.

    A network whose weights become binary in the course of training scores better before: the best of such epochs would
    be one of another, real-valued network.

    Args:
        monitor: Metric to choose by, such as `val/acc`.
        mode: "max" or "min".
        dirpath: Folder; None takes Lightning's choice.
        filename: Without ".ckpt".
        save_top_k: Number of checkpoints to keep.
        save_weights_only: Leave out optimizer, learning-rate scheduler and callbacks.
    """

    def __init__(
        self,
        monitor: str,
        *,
        mode: Literal["max", "min"] = "max",
        dirpath: str | Path | None = None,
        filename: str = "best",
        save_top_k: int = 1,
        save_weights_only: bool = False,
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            save_weights_only=save_weights_only,
            enable_version_counter=False,
        )


class FinalCheckpoint(OneFile):
    """Write `final.ckpt` when the training ends: the network as it is then, with its config and without the optimizer.

    It comes after averaging and `BNReestimate`, and is what to evaluate; `last.ckpt` is what to resume from.

    Args:
        dirpath: Folder; None takes Lightning's choice.
    """

    def __init__(self, dirpath: str | Path | None = None) -> None:
        super().__init__(dirpath, filename="final", weights_only=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)
