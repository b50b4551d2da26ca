"""Launch of jobs: Hydra's start, run folders, and distributed workers that run exactly one job."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from bnn_lightning.cli import sweep
from bnn_lightning.cli.config_paths import config_dir, config_path, list_options
from bnn_lightning.cli.errors import SHOW_TRACE, explain, fail, friendly
from bnn_lightning.cli.own_folder import running
from bnn_lightning.cli.run_folder import kept_apart, late_check
from bnn_lightning.workflows.config_options import describe_keys
from bnn_lightning.workflows.errors import UserError, did_you_mean, listed
from bnn_lightning.workflows.old_names import new_key
from bnn_lightning.workflows.run_folder import run_id

Job = Callable[[DictConfig], float | None]

RUN_ID = "BNN_RUN_ID"
_EXIT_CTRL_C = 128 + signal.SIGINT
# Variables that Lightning's launcher of workers writes into the environment.
_WORKER_ENVIRONMENT = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "PL_GLOBAL_SEED")
# Entries of defaults lists that are optional.
OPTIONAL = ("recipe", "auto_augment@data.auto_augment")
# Overrides of the sweep itself, which a worker's single job must not see.
_SWEEP_OVERRIDES = ("hydra.mode", "hydra.sweep.", "hydra.sweeper", "hydra/sweeper", "hydra.launcher", "hydra/launcher")
# Files that the jobs of this process's sweep write, with the number of the job.
_written_by: dict[Path, int] = {}


def launch(job: Job, *, config_name: str, prefix: Sequence[str] = ()) -> None:
    """Compose the configuration from `sys.argv`, and run a job with it once, or once for each point of a sweep.

    Args:
        job: Takes the configuration; what it returns is a sweep's objective.
        config_name: Name of the primary configuration.
        prefix: The words of `sys.argv` after the program that are not Hydra's: the verb of `bnn train`.
    """
    _written_by.clear()
    argv, environment = sys.argv, dict(os.environ)
    arguments = _flags_first(argv[1 + len(prefix) :])
    program = [argv[0], *prefix]
    verb = prefix[0] if prefix else config_name

    def one(config: DictConfig) -> float | None:
        # Hydra raises what a job raises only under this variable; the job and its workers see the user's own value.
        _restore(environment, (SHOW_TRACE,))
        try:
            with (  # in a launcher's process, which may be another than this one
                one_job(program, arguments),
                running(verb, arguments),
                late_check(config, arguments) if config_name == "train" and is_sweep() else nullcontext(),
            ):
                return job(config)
        except (UserError, OmegaConfBaseException) as error:
            if environment.get(SHOW_TRACE) == "1" or is_sweep():  # whose other jobs run all the same
                raise
            fail(explain(error))  # an exit passes Hydra without its "Error executing job with overrides"
        finally:
            os.environ[SHOW_TRACE] = "1"

    try:
        with friendly():
            _refuse(arguments)
            if get_args_parser().parse_known_args(arguments)[0].help:
                print(describe_keys(config_dir(), config_name), end="")
            os.environ.setdefault(RUN_ID, run_id())
            os.environ[SHOW_TRACE] = "1"
            sys.argv = [argv[0], *arguments]
            runs = _runs(arguments, environment) if config_name == "train" else nullcontext()
            with running(verb, arguments), _options_only(), _composed_once(), runs:
                hydra.main(config_path=config_path(), config_name=config_name, version_base="1.3")(one)()
    finally:
        sys.argv = argv
        _restore(environment, (SHOW_TRACE, RUN_ID))


@contextmanager
def one_job(program: Sequence[str], arguments: Sequence[str]) -> Iterator[None]:
    """Let distributed workers run this job, and nothing else, in the job's own folder.

    Lightning starts workers with `sys.argv`. In a sweep that is the whole sweep, and with a sampler the ranks would
    train with different values; so each worker gets the overrides of its one job. Afterwards `sys.argv`, the
    environment and the process group are as before (hydra #2070, pytorch-lightning #11300).

    Args:
        program: `sys.argv[0]` and the verb, if there is one.
        arguments: The rest of the command line, as the user gave it.

    Raises:
        UserError: A sweep in one process over several nodes.
    """
    in_sweep = is_sweep()
    argv, environment = sys.argv, dict(os.environ)
    sys.argv = [*program, *(_job_arguments(arguments) if in_sweep else arguments)]
    try:
        with _job_folder() if in_sweep else nullcontext():
            yield
    finally:
        sys.argv = argv
        _leave_process_group()
        _restore(environment, _WORKER_ENVIRONMENT)


def is_sweep() -> bool:
    """Whether this job is one of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def refuse_second_job(path: Path, key: str = "out") -> None:
    """Refuse a file that an earlier job of this sweep writes.

    Args:
        path: The file.
        key: Key of the configuration, for messages.

    Raises:
        UserError: Names the earlier job.
    """
    if not is_sweep():
        return
    number = int(HydraConfig.get().job.num)
    first = _written_by.setdefault(path.resolve(), number)
    if first != number:
        own = f"{path.stem}_${{hydra:job.num}}{path.suffix}"
        raise UserError(f"`{key}`: job {first} of this sweep writes {path}. Give each job its own: '{key}={own}'.")


def pass_to_workers(key: str, value: str) -> None:
    """Add an override to the command line of workers that start later, such as a path that was looked up."""
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    sys.argv.append(f'{key}="{quoted}"')


def refuse_multi_node_sweep(num_nodes: int) -> None:
    """Refuse a sweep in one process over several nodes: the other nodes would each start a sweep of their own.

    Raises:
        UserError: `-m` with Hydra's basic launcher and more than one node.
    """
    if num_nodes <= 1 or not is_sweep():
        return
    if str(HydraConfig.get().launcher.get("_target_", "")).endswith(".BasicLauncher"):
        raise UserError(
            f"a sweep (-m) in one process cannot use trainer.num_nodes={num_nodes}: take hydra/launcher=submitit_slurm "
            "(pip install hydra-submitit-launcher), or start each job by itself (one sbatch or torchrun a job)."
        )


def config_folders() -> list[Path]:
    """Return the folders of configurations beside the tree of the package."""
    return [Path(source.path) for source in HydraConfig.get().runtime.config_sources if source.schema == "file"]


def refuse_missing_options() -> None:
    """Refuse options that were asked for and do not exist, where Hydra passes over them: optional ones.

    Raises:
        UserError: Names the options that there are.
    """
    if not HydraConfig.initialized():
        return
    hydra_config = HydraConfig.get()
    for key in OPTIONAL:
        choice = hydra_config.runtime.choices.get(key)
        if choice is None or not any(override.startswith(f"{key}=") for override in hydra_config.overrides.task):
            continue
        known = sorted({*list_options(key.partition("@")[0], config_folders()), "none"})
        if choice not in known:
            raise UserError(
                f"`{key}={choice}`: no such option.{did_you_mean(choice, known)} There are: {', '.join(known)}."
            )


def _flags_first(arguments: Sequence[str]) -> list[str]:
    """Return the words with flags such as `-cd conf` in front: Hydra does not take them between overrides."""
    try:
        overrides = list(get_args_parser().parse_known_intermixed_args(list(arguments))[0].overrides)
    except SystemExit:  # a flag without its value: Hydra says so
        return list(arguments)
    flags = []
    left = list(overrides)
    for word in arguments:
        if left and word == left[0]:
            left.pop(0)
        else:
            flags.append(word)
    return [*flags, *overrides]


def _refuse(arguments: Sequence[str]) -> None:
    """Refuse words that Hydra answers with a traceback, or reads otherwise than we do."""
    parsed, unknown = get_args_parser().parse_known_args(list(arguments))
    if unknown:
        key, _, value = unknown[0].lstrip("-").partition("=")
        raise UserError(f"`{unknown[0]}`: keys have no dashes, as in `{key}={value or '...'}`; --help lists them.")
    if parsed.multirun and parsed.cfg:
        raise UserError(
            "-m with --cfg: a sweep is many jobs, and --cfg shows the configuration of one. Leave -m out, and give "
            "each key one value."
        )
    for argument in arguments:
        key, _, value = argument.partition("=")
        if value.startswith("[") and value.count("[") > value.count("]"):
            raise UserError(f"`{argument}`: a list is one word, without spaces or in quotes, as in '{key}=[a,b]'.")
        group = key.partition("@")[0]
        old = key.lstrip("+~").partition("@")[0]
        # A distiller of the user's own may have keys that ours had; Hydra says which ours has not.
        if (new := new_key(old)) is not None and not old.startswith("distill."):
            raise UserError(f"`{argument}`: `{old}` is called `{new}` now.")
        if key.startswith("model@"):
            raise UserError(
                f"`{argument}`: a model names the optimizer of the training, so it stands at `model` alone. A network "
                "of ours as teacher is teacher@distill.teacher=model distill.teacher.network.name=resnet20."
            )
        if key == "~recipe":
            raise UserError("`~recipe` would leave its options: recipe=none leaves all of a recipe out.")
        options = list_options(group) if value else []
        if value == "null" and options:
            remedy = f"take {key}=none" if "none" in options else f"leave the option out, or take it away ('~{key}')"
            raise UserError(f"`{argument}`: {remedy}.")
        if value.startswith("{") and options:
            raise UserError(f"`{argument}`: `{group}` takes the name of an option: {listed(options)}.")
        for name in (part.strip() for part in value.strip("[]").split(",") if options):
            if name.startswith("_"):
                raise UserError(
                    f"`{argument}`: {name} is what options of `{group}` have in common, and no option. "
                    f"`{group}` has: {listed(options)}."
                )
            if _is_number(name):  # Hydra wants a string
                raise UserError(f"`{argument}`: {name} is no option of `{group}`, which has: {listed(options)}.")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text.lower() in ("true", "false")
    return True


@contextmanager
def _options_only() -> Iterator[None]:
    # `--help`, globs of sweeps and messages list what Hydra finds in a group's folder; files with `_` in front are
    # parts of options. Hydra has no way to say so.
    original = ConfigRepository.get_group_options

    def options(*args: Any, **kwargs: Any) -> list[str]:
        return [name for name in original(*args, **kwargs) if not name.startswith("_")]

    ConfigRepository.get_group_options = options  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigRepository.get_group_options = original  # type: ignore[method-assign]


@contextmanager
def _composed_once() -> Iterator[None]:
    # Before a run Hydra composes its configuration once more, for `hydra.mode`: half of a start's time. Here it
    # composes that of a run, which it takes again where this is one.
    load, get_mode = ConfigLoaderImpl.load_configuration, Hydra.get_mode
    composed: list[tuple[Sequence[str], DictConfig]] = []

    def mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        try:
            config = self.compose_config(config_name, overrides, RunMode.RUN)
        except (HydraException, OmegaConfBaseException):  # which the run shows, or lists of a sweep
            return get_mode(self, config_name, overrides)
        composed.append(([*overrides, "hydra.mode=RUN"], config))
        return config.hydra.mode

    def loaded(self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *rest: Any, **more: Any) -> Any:
        if composed and composed[0][0] == overrides:
            return composed.pop()[1]
        return load(self, config_name, overrides, *rest, **more)

    ConfigLoaderImpl.load_configuration, Hydra.get_mode = loaded, mode  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration, Hydra.get_mode = load, get_mode  # type: ignore[method-assign]


def _job_arguments(arguments: Sequence[str]) -> list[str]:
    parsed, _ = get_args_parser().parse_known_args(list(arguments))
    overrides = HydraConfig.get().overrides
    flags = [f"--{name}={value}" for name, value in _search_flags(parsed).items()]
    kept = [o for o in overrides.hydra if not o.lstrip("+~").startswith(_SWEEP_OVERRIDES)]
    return [*flags, *overrides.task, *kept, "hydra.mode=RUN"]


def _search_flags(parsed: object) -> dict[str, str]:
    given = {name: getattr(parsed, name.replace("-", "_")) for name in ("config-path", "config-dir", "config-name")}
    return {name: value for name, value in given.items() if value is not None}


@contextmanager
def _job_folder() -> Iterator[None]:
    # Lightning hands `hydra.run.dir` to its workers; in a sweep that is not yet the job's folder.
    node: DictConfig = HydraConfig.instance().cfg.hydra  # type: ignore[union-attr]
    before = node.run._get_node("dir")._value()
    with read_write(node), open_dict(node):
        node.run.dir = node.runtime.output_dir
    try:
        yield
    finally:
        with read_write(node), open_dict(node):
            node.run.dir = before


@contextmanager
def _runs(arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[None]:
    """Keep runs apart, and end a sweep with its table; exit with a code that is not 0 where a job has failed."""
    sweep.running.show_trace = environment.get(SHOW_TRACE) == "1"
    try:
        with sweep.watched(sweep.running), kept_apart(arguments, sweep.running.record):
            yield
    except KeyboardInterrupt:  # not in the training, which ends by itself
        raise SystemExit(_EXIT_CTRL_C) from None
    if code := sweep.running.exit_code:
        raise SystemExit(code)


def _leave_process_group() -> None:
    distributed = sys.modules.get("torch.distributed")  # a job that failed early has not imported torch
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _restore(environment: dict[str, str], names: Sequence[str]) -> None:
    for name in names:
        if name in environment:
            os.environ[name] = environment[name]
        else:
            os.environ.pop(name, None)
