"""Jobs of the verbs: a composed configuration to a workflow, and its result to the terminal."""

import inspect
import logging
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

import bnn_lightning
from bnn_lightning.cli.launch import refuse_missing_options, refuse_second_job
from bnn_lightning.cli.schema import plain_values, read_settings

# Workflows are imported late: `--help` and `--cfg job` do without torch and Lightning.


class _Printer(logging.Handler):
    """Print the records of the library: to stdout, warnings to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        print(record.getMessage(), file=stream, flush=True)


@contextmanager
def printed() -> Iterator[None]:
    """Print the log records of workflows and downloads while they work."""
    logger = logging.getLogger("bnn_lightning")
    before = logger.level, logger.propagate
    handler = _Printer()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def evaluate(config: DictConfig) -> float:
    """Score a checkpoint or a packed file; return the top-1 accuracy."""
    found = _run("evaluate", config)
    _tell(f"\n{found}")
    return float(found.top1)


def export(config: DictConfig) -> float:
    """Export a checkpoint; return the bytes of the file."""
    from bnn_lightning.cli.summary import as_started
    from bnn_lightning.deploy.export.formats import FORMATS
    from bnn_lightning.workflows.exporting import out_path

    found = _run("export", config, out=out_path)
    _tell(str(found))
    if (next_step := FORMATS[found.format].next_step) and found.preparation is not None:
        _tell(f"next:\n  {as_started(next_step.format(path=shlex.quote(str(found.path))))}")
    return float(found.size)


def predict(config: DictConfig) -> float:
    """Classify pictures; return their number."""
    return float(len(_run("predict", config)))


def profile(config: DictConfig) -> None:
    """Count a network, and print the counts in the format that is asked for."""
    from bnn_lightning.cli.facts import with_assumed_data
    from bnn_lightning.workflows.profiling import ASSUMED

    assumed = config.get("ckpt") is None and "_target_" in config.model and "_target_" not in config.data
    with redirect_stdout(sys.stderr):  # what is printed is the profile alone
        found = _run("profile", with_assumed_data(config) if assumed else config, data_assumed=assumed)
    print(getattr(found, config.format)())
    if config.format == "csv" and assumed:
        print(ASSUMED, file=sys.stderr)


def verify(config: DictConfig) -> float:
    """Verify a packed file; return the bytes that were checked."""
    found = _run("verify", config)
    _tell(str(found))
    return float(found.size)


def benchmark(config: DictConfig) -> None:
    """Measure a packed network beside its baselines, and print a table."""
    from bnn_lightning.workflows.benchmarking import refuse_unfolded

    found = _run("benchmark", config)
    _tell(str(found))
    refuse_unfolded(found)


def rank(config: DictConfig) -> float:
    """Rank teachers; return the lowest knowledge complexity."""
    from bnn_lightning.cli.teachers import option_reader, refuse_no_teacher
    from bnn_lightning.workflows.ranking import check_names

    _ = config.student  # an error where it has no value
    teachers = plain_values(config).get("teachers", [])
    check_names(teachers)
    refuse_no_teacher(teachers)
    with _logs_to_stderr() if config.format == "json" else nullcontext():
        found = _run("rank", config, make_teacher=option_reader)
    _tell(found.json() if config.format == "json" else repr(found))
    return float(found.candidates[0].knowledge.complexity)


def prepare(config: DictConfig) -> float:
    """Prepare a folder of images; return the number of damaged files."""
    from bnn_lightning.cli.summary import command

    found = _run("prepare", config)
    _tell(f"next:\n  {command('train', f'data={found.data}', f'data.root={found.output}')}")
    return float(len(found.report.damaged))


def report(config: DictConfig) -> float:
    """Write the page of a run; return its size in bytes."""
    from bnn_lightning.workflows.reporting import page_path

    found = _run("report", config, out=page_path)
    _tell(str(found))
    return float(found.size)


def _run(verb: str, config: DictConfig, *, out: Callable[[Any], Path] | None = None, **options: Any) -> Any:
    """Call the workflow of a verb with its settings, and with the sections of the configuration that it takes.

    Args:
        verb: Name of the workflow.
        config: As composed by Hydra.
        out: Returns the file that settings mean; None: their key `out`, if they have one.
        options: Other arguments.
    """
    from bnn_lightning.cli.facts import described
    from bnn_lightning.workflows import settings as kinds

    settings = read_settings(getattr(kinds, f"{verb.capitalize()}Settings"), config)
    refuse_missing_options()
    paths = {key: getattr(settings, key, None) for key in ("out", "chart")}
    for key, path in (paths | ({} if out is None else {"out": out(settings)})).items():
        if path is not None:
            refuse_second_job(Path(path), key)
    workflow = getattr(bnn_lightning, verb)
    taken = inspect.signature(workflow).parameters
    sections = vars(described(config)) if "data" in taken else {}
    sections |= {"trainer": plain_values(config.trainer)} if "trainer" in taken else {}
    with printed():
        return workflow(**vars(settings), **{k: v for k, v in sections.items() if k in taken}, **options)


def _tell(text: str) -> None:
    """Print a text, once for all ranks."""
    from bnn_lightning.workflows.messages import say

    with printed():
        say(text)


@contextmanager
def _logs_to_stderr() -> Iterator[None]:
    """Let progress bars and logs, too, go to stderr."""
    logs = [h for h in logging.root.handlers if isinstance(h, logging.StreamHandler) and h.stream is sys.stdout]
    stdout = sys.stdout
    for handler in logs:
        handler.setStream(sys.stderr)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        for handler in logs:
            handler.setStream(stdout)
