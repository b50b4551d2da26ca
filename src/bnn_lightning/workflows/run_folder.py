"""Run folders: names, locks, and cleaning up after a failed start."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from bnn_lightning.utils.files import replacing
from bnn_lightning.workflows.errors import UserError

LOCK = ".lock"
# Name of the launcher's job that trains in a folder.
_JOB = ".job"
# Files of a run that has begun to train.
_OF_A_RUN = ("checkpoints/*.ckpt", "csv/**/metrics.csv")
# By which launchers tell a process its rank, in Lightning's order.
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
# By which launchers tell a process how often they have started its job again.
_RESTARTS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")


def run_id() -> str:
    """Return a name for a run's folder that all its processes share, without `=`, `,`, `(` or a space.

    It is that of the launcher's job (after a requeue the job finds its folder again), otherwise the time, to the
    millisecond.
    """
    if job := _job():
        return job
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return f"torchrun-{os.getppid()}"  # no id was given: the ranks of a node share their parent
    now = time.time()
    return time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(now)) + f"-{int(now * 1000) % 1000:03d}"


def _job() -> str:
    """Return the job of SLURM by its number, or of torchrun by the id that it was given; nothing for others.

    Interactive SLURM sessions are none: they start many runs.
    """
    environment = os.environ
    if "SLURM_JOB_ID" in environment and environment.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return f"slurm-{environment['SLURM_JOB_ID']}"
    run = environment.get("TORCHELASTIC_RUN_ID", "none")
    return "" if run == "none" else f"torchrun-{''.join(c if c.isalnum() or c in '-_.' else '-' for c in run)}"


def _job_or_agent() -> str:
    """Return the launcher's job, also that of a torchrun without an id on one node; nothing where ranks share none.

    Such a torchrun is known by its folder of logs, `<random name>/attempt_<n>/<rank>/error.json`. The number of its
    process is no name: containers use it again.
    """
    logs = Path(os.environ.get("TORCHELASTIC_ERROR_FILE", "")).parents
    of_one_node = os.environ.get("GROUP_WORLD_SIZE") == "1" and len(logs) > 2
    return _job() or (f"torchrun-{logs[2].name}" if of_one_node else "")


@contextmanager
def held(folder: Path, *, keep: bool) -> Iterator[list[bool]]:
    """Hold a folder's lock, which ends with the process; afterwards remove the files of a failed start.

    Args:
        folder: Made if it is not there.
        keep: Leave the folder of a failed start, with its log.

    Yields:
        A list, to which the caller adds something when the run has succeeded.

    Raises:
        UserError: Another process holds the lock, or the folder cannot be written.
    """
    new = next((path for path in reversed([folder, *folder.parents]) if not path.exists()), None)
    done: list[bool] = []
    lock = FileLock(folder.resolve() / LOCK, is_singleton=True)  # the command line holds it around the workflow
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if rank() == 0:  # the others are the same run
            lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"`{folder}`: another run is writing into this folder; give hydra.run.dir=<folder>.") from error
    except NotImplementedError:
        from bnn_lightning.workflows.messages import warn  # late: it imports Lightning

        warn(f"`{folder}`: this file system has no locks; a second run in this folder is not noticed.")
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        yield done
    finally:
        lock.release()
        if new is not None and not done and not keep and not holds_run(folder):
            shutil.rmtree(folder, ignore_errors=True)
            _remove_empty(folder.parent, new)


def overrides_of(run: Path) -> list[str] | None:
    """Return the words of the command line that a run was started with; None for a run without a record of them."""
    file = run / ".hydra" / "overrides.yaml"
    return [str(word) for word in yaml.safe_load(file.read_text(encoding="utf-8")) or []] if file.is_file() else None


def holds_run(folder: Path) -> bool:
    """Whether a run has begun to train in a folder."""
    return any(True for pattern in _OF_A_RUN for _ in folder.glob(pattern))


def run_of(checkpoint: Path) -> Path | None:
    """Return the folder of the run that a checkpoint belongs to; None for one that lies elsewhere."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else None


def rank() -> int:
    """Return which of a run's processes this is."""
    return next((int(os.environ[name]) for name in _RANKS if os.environ.get(name, "").isdigit()), 0)


def requeued(folder: Path) -> bool:
    """Whether SLURM or torchrun has started this job again, as after a failed node, and the folder holds its run.

    A run of another job does not count, nor one of an unknown job: a restarted job may start trainings itself, which
    inherit the number of its restarts.
    """
    if all(os.environ.get(name, "0") == "0" for name in _RESTARTS) or not holds_run(folder):
        return False
    return _job_or_agent() != "" and _noted_job(folder) == _job_or_agent()


def note_job(folder: Path) -> None:
    """Write down which job trains in a folder, if it is there; see `requeued`."""
    if rank() == 0 and folder.is_dir() and _noted_job(folder) != _job_or_agent():
        with replacing(folder / _JOB) as temporary:
            temporary.write_text(_job_or_agent(), encoding="utf-8")


def _noted_job(folder: Path) -> str | None:
    """Return the job that `note_job` has written."""
    file = folder / _JOB
    return file.read_text(encoding="utf-8") if file.is_file() else None


def unwritable(folder: Path, error: OSError) -> UserError:
    """Return the message on a folder that cannot be written."""
    return UserError(f"`{folder}` cannot be written: {error.strerror or error}.")


def _remove_empty(folder: Path, last: Path) -> None:
    """Remove a folder and those above it up to `last`, as far as they are empty."""
    while folder != last.parent and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def refuse_other_run(folder: Path) -> None:
    """Refuse a folder that holds a run which this one does not resume.

    Raises:
        UserError: It does.
    """
    if holds_other_run(folder):
        raise UserError(
            f"`{folder}` holds a run, which is not overwritten: give another folder, or resume it with "
            f"ckpt_path={folder}."
        )


def holds_other_run(folder: Path) -> bool:
    """Whether a folder holds a run of another job; False on ranks after the first, who may find that one's files."""
    return rank() == 0 and holds_run(folder) and not requeued(folder)
