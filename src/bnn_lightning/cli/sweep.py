"""Jobs of a sweep in one process: all of them run, and a table lists their results."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from bnn_lightning.cli.errors import EXIT_CODE, SHOW_TRACE, explain, is_users
from bnn_lightning.cli.run_folder import basic_launcher
from bnn_lightning.utils.curves import read_last
from bnn_lightning.utils.text import text_table

_HEADER = ("job", "differs by", "accuracy", "folder", "error")


@dataclass
class SweepJob:
    """A job of a sweep.

    Attributes:
        number: Hydra's.
        overrides: Overrides of the task.
        folder: Folder of the job.
        error: Why it failed, or that it was not run.
        expected: Whether the error is one that the user can mend.
        accuracy: On the test set, or the held-out images where it was not scored.
    """

    number: int
    overrides: list[str]
    folder: str = ""
    error: str | None = "not run"
    expected: bool = True
    accuracy: float | None = None


@dataclass
class Sweep:
    """The jobs of a sweep, as far as they are known, and whether to show the traceback of errors of the user's."""

    jobs: list[SweepJob] = field(default_factory=list)
    show_trace: bool = False

    def differing(self, job: SweepJob) -> list[str]:
        """Return those overrides of a job that others do not have."""
        alike = [set(other.overrides) for other in self.jobs]
        return [word for word in job.overrides if not all(word in words for words in alike)]

    def record(self, config: DictConfig, found: JobReturn | None) -> None:
        """Record the result of a job."""
        number = OmegaConf.select(config, "hydra.job.num")
        job = next((job for job in self.jobs if job.number == number), None)
        if job is None:
            return
        folder = Path(str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir))
        job.folder = str(folder) if folder.is_dir() else ""
        job.accuracy = _accuracy(Path(job.folder))
        job.error = "stopped" if found is None else None
        if found is not None and found.status == JobStatus.FAILED:
            error = found._return_value
            job.expected = is_users(error)
            job.error = explain(error) if job.expected else f"{type(error).__name__}: {error}"
            hint = f"\n({SHOW_TRACE}=1 shows the traceback)" if job.expected and not self.show_trace else ""
            _tell(f"job {number}: {job.error}{hint}", None if hint else error)

    def table(self) -> str:
        """Return a line a job."""
        return "\n".join(text_table([_HEADER, *(self._row(job) for job in self.jobs)]))

    def _row(self, job: SweepJob) -> tuple[str, ...]:
        accuracy = "" if job.accuracy is None else f"{100 * job.accuracy:.2f} %"
        error = (job.error or "").splitlines()
        return (str(job.number), " ".join(self.differing(job)), accuracy, job.folder, error[0] if error else "")

    @property
    def exit_code(self) -> int:
        """0 where all jobs have succeeded."""
        failed = [job for job in self.jobs if job.error is not None]
        return 0 if not failed else EXIT_CODE if all(job.expected for job in failed) else 1


# The sweep of this process, for what names its runs.
running = Sweep()


@contextmanager
def watched(sweep: Sweep) -> Iterator[None]:
    """Note the jobs that Hydra's basic launcher runs, and let a grid go on after one that fails.

    (A sweeper that looks for good values, such as Optuna, must know that a job failed; it decides itself.)
    """
    launcher_class: Any = basic_launcher().BasicLauncher
    original = launcher_class.launch

    def launch(launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        sweep.jobs += [SweepJob(initial_job_idx + i, list(words)) for i, words in enumerate(job_overrides)]
        found: Sequence[JobReturn] = original(launcher, job_overrides, initial_job_idx)
        if str(launcher.config.hydra.sweeper.get("_target_", "")).endswith(".BasicSweeper"):
            for job in found:
                if job.status == JobStatus.FAILED:
                    job.status, job.return_value = JobStatus.COMPLETED, None
        return found

    sweep.jobs.clear()
    launcher_class.launch = launch
    try:
        yield
    finally:
        launcher_class.launch = original
        if sweep.jobs:
            print(f"\n{sweep.table()}", flush=True)


def _accuracy(folder: Path) -> float | None:
    try:
        last = read_last(folder)
    except ValueError:  # nothing was logged
        return None
    return last.get("test/acc", last.get("val/acc"))


def _tell(text: str, error: BaseException | None) -> None:
    """Print an error, and write it into the log of the job that is over."""
    trace = (type(error), error, error.__traceback__) if error is not None else None
    record = logging.LogRecord("bnn", logging.ERROR, "", 0, f"error: {text}", None, trace)
    logging.StreamHandler(sys.stderr).handle(record)
    for handler in logging.root.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
