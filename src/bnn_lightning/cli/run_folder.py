"""Run folders of a command line: lookup, and protection of earlier runs."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra._internal import hydra as hydra_run
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.run_folder import held, holds_other_run, run_of, unwritable

RunJob = Callable[..., JobReturn]


@contextmanager
def kept_apart(arguments: Sequence[str], record: Callable[[DictConfig, JobReturn | None], None]) -> Iterator[None]:
    """Keep the folders of runs apart while Hydra runs jobs: see `run_in_folder`.

    Hydra makes a job's folder and writes into it before it calls the job; whether it may is to be known before.

    Args:
        arguments: The command line after the verb, for messages.
        record: Called with each job's configuration and its result; None if it was stopped.
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
        The result of the job. In a sweep that is also the error of one that may not start.

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
                raise unwritable(folder, error) from error
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


def _find_folder(config: DictConfig, subdir_key: str | None) -> tuple[Path, bool]:
    """Return a job's folder, and whether the job resumes the run in it."""
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
    is_given = any(word.lstrip("+").startswith("hydra.run.dir=") for word in config.hydra.overrides.hydra)
    if own is None or subdir_key is not None or is_given:
        return folder, own is not None and own.resolve() == folder.resolve()
    with read_write(config.hydra):
        config.hydra.run.dir = str(own)
    return own, True


def _find_checkpoint(config: DictConfig, folder: Path, *, in_sweep: bool) -> Path | None:
    wanted = OmegaConf.select(config, "ckpt_path")
    if not isinstance(wanted, str):
        return None
    # Imported late: torch and Lightning, which a command line with a mistake does without.
    from bnn_lightning.workflows.resumption import find_checkpoint

    return find_checkpoint(wanted, folder, name=str(config.name), in_sweep=in_sweep)


def _refuse_other_run(folder: Path, arguments: Sequence[str], *, is_own: bool, in_sweep: bool) -> None:
    if not is_own and holds_other_run(folder):
        raise UserError(_taken(folder, arguments, in_sweep=in_sweep))


def _taken(folder: Path, arguments: Sequence[str], *, in_sweep: bool) -> str:
    """Return the message on a folder that holds a run, with the two commands that can be meant."""
    key, kept = ("hydra.sweep.dir", folder.parent) if in_sweep else ("hydra.run.dir", folder)
    resume = "ckpt_path=last" if in_sweep else f"ckpt_path={folder}"
    there = "It has no checkpoint yet."
    if (folder / "checkpoints" / "last.ckpt").is_file():
        there = f"To resume it:\n  {_command(arguments, ('ckpt_path', 'init_from'), resume)}"
    numbered = (kept.with_name(f"{kept.name}-{number}") for number in range(2, sys.maxsize))
    free = next(path for path in numbered if not path.exists())
    return (
        f"`{folder}` holds a run, which is not overwritten. {there}\n"
        f"For a new run, give another folder:\n  {_command(arguments, (key,), f'{key}={free}')}"
    )


def _command(arguments: Sequence[str], without: Sequence[str], word: str) -> str:
    # Imported late, as above.
    from bnn_lightning.cli.summary import command

    kept = [text for text in arguments if text.lstrip("+~").partition("=")[0] not in without]
    return command("train", *kept, word)
