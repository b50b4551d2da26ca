"""Folders of runs: which one a command means, who may write there, and what is left of a failed start."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from filelock import FileLock, Timeout
from hydra._internal import hydra as hydra_run
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from bnn_lightning.workflows.errors import UserError

LOCK = ".lock"
# Files of a run that has begun to train. Lightning writes the last for a SLURM job that is requeued.
_OF_A_RUN = ("checkpoints/*.ckpt", "csv/**/metrics.csv", "hpc_ckpt_*.ckpt")
# By which launchers tell a process its rank, in Lightning's order.
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")

RunJob = Callable[..., JobReturn]


@contextmanager
def kept_apart(arguments: Sequence[str], record: Callable[[DictConfig, JobReturn | None], None]) -> Iterator[None]:
    """Keep the folders of runs apart while Hydra runs jobs: see `run_in_folder`.

    Hydra makes a job's folder and writes into it before it calls the job; whether it may is to be known before.

    Args:
        arguments: The command line after the verb, for messages.
        record: Called with each job's configuration and what came of it; None if it was stopped.
    """
    modules: tuple[Any, ...] = (hydra_run, basic_launcher())
    original = modules[0].run_job

    def run_job(*, config: DictConfig, job_subdir_key: str | None, **options: Any) -> JobReturn:
        found: JobReturn | None = None
        try:
            found = run_in_folder(original, config, job_subdir_key, arguments, options)
        finally:
            record(config, found)
        return found

    for module in modules:
        module.run_job = run_job
    try:
        yield
    finally:
        for module in modules:
            module.run_job = original


def basic_launcher() -> ModuleType:
    """Return the module of the launcher that Hydra will use: it imports its plugins anew when it lists them."""
    Plugins.instance()
    return sys.modules["hydra._internal.core_plugins.basic_launcher"]


def run_in_folder(
    run_job: RunJob, config: DictConfig, subdir_key: str | None, arguments: Sequence[str], options: dict[str, Any]
) -> JobReturn:
    """Run a job in its folder, which no other run has or uses; with `ckpt_path`, in the folder of that run.

    Args:
        run_job: Hydra's.
        config: Configuration of the job; the folder and the checkpoint that `ckpt_path` means are written into it.
        subdir_key: Hydra's; None where the job is not one of a sweep.
        arguments: The command line, for messages.
        options: Hydra's other arguments of `run_job`.

    Returns:
        What came of the job. In a sweep that is also the error of one that may not start.

    Raises:
        UserError: A single run whose folder holds another run, or is in use, or whose checkpoint does not exist.
    """
    try:
        folder, is_own = _find_folder(config, subdir_key)
        with held(folder, keep=subdir_key is not None) as done:
            _refuse_other_run(folder, arguments, is_own=is_own, in_sweep=subdir_key is not None)
            try:
                found = run_job(config=config, job_subdir_key=subdir_key, **options)
            except OSError as error:  # by a file of Hydra's; what the job raises is in `found`
                raise _unwritable(folder, error) from error
            done.extend([True] if found.status == JobStatus.COMPLETED else [])
        return found
    except (UserError, OmegaConfBaseException) as error:
        if subdir_key is None:
            raise
        failed = JobReturn(overrides=list(config.hydra.overrides.task), status=JobStatus.FAILED)
        failed.return_value = error
        return failed


@contextmanager
def late_check(config: DictConfig, arguments: Sequence[str]) -> Iterator[None]:
    """Keep a job of a sweep apart that another launcher than Hydra's own has started, in a process of its own.

    Such a launcher has made the folder and written Hydra's files into it; no file of a run is touched.

    Args:
        config: Configuration of the job.
        arguments: The command line after the verb, for messages.

    Raises:
        UserError: The folder holds another run, or is in use.
    """
    hydra_config = HydraConfig.get()
    if str(hydra_config.launcher.get("_target_", "")).endswith(".BasicLauncher"):
        yield  # `run_in_folder` has looked
        return
    folder = Path(hydra_config.runtime.output_dir)
    path = _find_checkpoint(config, folder, in_sweep=True)
    with held(folder, keep=True):
        is_own = path is not None and run_of(path.resolve()) == folder.resolve()
        _refuse_other_run(folder, arguments, is_own=is_own, in_sweep=True)
        yield


@contextmanager
def held(folder: Path, *, keep: bool) -> Iterator[list[bool]]:
    """Hold a folder's lock, which dies with the process; afterwards take away what a failed start has made.

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
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if rank() == 0:  # the others are the same run
            lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"`{folder}`: another run is writing into this folder; give hydra.run.dir=<folder>.") from error
    except NotImplementedError:
        print(
            f"`{folder}`: this file system has no locks; a second run in this folder is not noticed.", file=sys.stderr
        )
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield done
    finally:
        lock.release()
        if new is not None and not done and not keep and not holds_run(folder):
            shutil.rmtree(folder, ignore_errors=True)
            _remove_empty(folder.parent, new)


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
    """Whether a SLURM job goes on in its folder: Lightning resumes it by itself."""
    return "SLURM_JOB_ID" in os.environ and any(True for _ in folder.glob("hpc_ckpt_*.ckpt"))


def _find_folder(config: DictConfig, subdir_key: str | None) -> tuple[Path, bool]:
    """Return a job's folder, and whether the job goes on with what is there."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)  # paths may be made of Hydra's own values
    try:
        folder = Path(str(config.hydra.run.dir if subdir_key is None else config.hydra.sweep.dir))
        folder = folder if subdir_key is None else folder / str(OmegaConf.select(config, subdir_key))
        if not isinstance(OmegaConf.select(config, "ckpt_path"), str):
            return folder, False
        path = _find_checkpoint(config, folder, in_sweep=subdir_key is not None)
    finally:
        HydraConfig.instance().cfg = before
    with open_dict(config):
        config.ckpt_path = None if path is None else str(path)
    own = folder if path is None else run_of(path)
    if own is None or subdir_key is not None or _is_given(config, "hydra.run.dir"):
        return folder, own is not None and own.resolve() == folder.resolve()
    with read_write(config.hydra):
        config.hydra.run.dir = str(own)
    return own, True


def _find_checkpoint(config: DictConfig, folder: Path, *, in_sweep: bool) -> Path | None:
    wanted = OmegaConf.select(config, "ckpt_path")
    if not isinstance(wanted, str):
        return None
    # Imported late: torch and Lightning, which a command line with a mistake does without.
    from bnn_lightning.cli.resume import find_checkpoint

    return find_checkpoint(wanted, folder, name=str(config.name), in_sweep=in_sweep)


def _refuse_other_run(folder: Path, arguments: Sequence[str], *, is_own: bool, in_sweep: bool) -> None:
    if not is_own and holds_run(folder) and not requeued(folder):
        raise UserError(_taken(folder, arguments, in_sweep=in_sweep))


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"`{folder}` cannot be written: {error.strerror or error}.")


def _is_given(config: DictConfig, key: str) -> bool:
    return any(override.lstrip("+").startswith(f"{key}=") for override in config.hydra.overrides.hydra)


def _taken(folder: Path, arguments: Sequence[str], *, in_sweep: bool) -> str:
    """Return what to say of a folder that holds a run: the two commands that can be meant."""
    key, kept = ("hydra.sweep.dir", folder.parent) if in_sweep else ("hydra.run.dir", folder)
    resume = "ckpt_path=last" if in_sweep else f"ckpt_path={folder}"
    there = "It has no checkpoint yet."
    if (folder / "checkpoints" / "last.ckpt").is_file():
        there = f"To resume it:\n  {_command(arguments, ('ckpt_path', 'init_from'), resume)}"
    return (
        f"`{folder}` holds a run, which is not overwritten. {there}\n"
        f"For a new run, give another folder:\n  {_command(arguments, (key,), f'{key}={_free(kept)}')}"
    )


def _command(arguments: Sequence[str], without: Sequence[str], word: str) -> str:
    # Imported late, as above.
    from bnn_lightning.cli.summary import command

    kept = [text for text in arguments if text.lstrip("+~").partition("=")[0] not in without]
    return command("train", *kept, word)


def _free(folder: Path) -> Path:
    numbered = (folder.with_name(f"{folder.name}-{number}") for number in range(2, sys.maxsize))
    return next(path for path in numbered if not path.exists())


def _remove_empty(folder: Path, last: Path) -> None:
    """Remove a folder and those above it up to `last`, as far as they are empty."""
    while folder != last.parent and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
