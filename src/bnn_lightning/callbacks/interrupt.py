"""Ctrl-C, and the signals of a cluster, between two training steps."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.exceptions import SIGTERMException

from bnn_lightning.utils.hardware import is_distributed


class StopRequest:
    """Remembers the first signal, such as Ctrl-C, so that training can stop between two steps; a second stops at once.

    An exception raised in the middle of an optimizer step would leave some weights updated and others not.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._previous: dict[int, Any] = {}

    def listen(self, *signums: int) -> None:
        """Take these signals over; outside of the main thread Python does not allow it, and nothing happens."""
        for signum in signums:
            self._take(signum, self._receive)

    def requeue_on(self, signum: int) -> None:
        """Take over the signal that asks for requeueing, and obey it at once: nothing is left to save."""
        self._take(signum, _requeue_at_once)

    def ignore(self, *signums: int) -> None:
        """Give these signals back, without any all of them."""
        if threading.current_thread() is threading.main_thread():
            for signum in set(signums or self._previous) & set(self._previous):
                signal.signal(signum, self._previous.pop(signum))

    def agreed(self, device: torch.device) -> bool:
        """Whether any rank was asked to stop; to be called on all of them."""
        if is_distributed():
            agreed = torch.tensor(self.signum, device=device)
            dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
            signum = int(agreed)
            self.signum = signum or self.signum  # one that arrives meanwhile counts the next time, on all ranks
            return signum != 0
        return self.signum != 0

    def exception(self) -> BaseException:
        """Return the meaning of the signal."""
        return KeyboardInterrupt() if self.signum == signal.SIGINT else SIGTERMException(128 + self.signum)

    def _take(self, signum: int, handler: Callable[[int, FrameType | None], None]) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous.setdefault(signum, signal.signal(signum, handler))

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:
            self.ignore()
            raise KeyboardInterrupt
        self.signum = signum
        if _is_first_rank():
            _write("Stopping after this step or validation, with a checkpoint. Once more: stop at once.")


def take_requeueing(trainer: Trainer) -> signal.Signals | None:
    """Keep Lightning from requeueing a SLURM job; return the signal that asks for it, None outside of SLURM.

    Lightning saves where the signal finds each rank, in the middle of a step: ranks that are not at the same place then
    wait for each other in different collectives.
    """
    environment = trainer._accelerator_connector.cluster_environment
    if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
        return None
    environment.auto_requeue = False
    return environment.requeue_signal


def requeue() -> None:
    """Let SLURM start this job again; on one rank."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = os.environ["SLURM_JOB_ID"] if array is None else f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        rank_zero_warn(f"The job {job} is not requeued ({error}). Start it again: it resumes with ckpt_path=last.")


def _requeue_at_once(signum: int, frame: FrameType | None) -> None:
    # The process goes on until SLURM ends it: what it scores meanwhile is scored, also where the requeueing fails.
    if _is_first_rank():
        _write("Requeueing this job; the training is over, and its scores are computed again then.")
        requeue()


def _is_first_rank() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0


def _write(line: str) -> None:
    with suppress(OSError):  # `print` may have been interrupted itself
        os.write(2, f"\n{line}\n".encode())
