"""Jobs of the verbs: a composed configuration to a workflow, and its result to the terminal."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from omegaconf import DictConfig

from bnn_lightning.cli.launch import refuse_missing_options, refuse_second_job
from bnn_lightning.cli.schema import plain_values, read_settings

# Workflows are imported late: `--help` and `--cfg job` do without torch and Lightning.


class _Printer(logging.Handler):
    """Print what workflows say: to stdout, warnings to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        print(record.getMessage(), file=stream, flush=True)


@contextmanager
def printed() -> Iterator[None]:
    """Print what workflows say while they work."""
    logger = logging.getLogger("bnn_lightning.workflows")
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
    from bnn_lightning.workflows import evaluation, messages
    from bnn_lightning.workflows.settings import EvaluateSettings

    settings = read_settings(EvaluateSettings, config)
    refuse_missing_options()
    with printed():
        trainer = plain_values(config.trainer)
        found = evaluation.evaluate(**vars(settings), **_described(config), trainer=trainer)
        messages.say(f"\n{found}")
        if found.warning is not None:
            messages.say(found.warning)
    return float(found.top1)


def export(config: DictConfig) -> float:
    """Export a checkpoint; return the bytes of the file."""
    from bnn_lightning.deploy.export.formats import FORMATS
    from bnn_lightning.workflows import exporting
    from bnn_lightning.workflows.settings import ExportSettings

    settings = read_settings(ExportSettings, config)
    refuse_missing_options()
    out = exporting.out_path(settings)
    refuse_second_job(out)
    with printed():
        found = exporting.export(**vars(settings), **_described(config), trainer=plain_values(config.trainer))
    print(found)
    next_step = FORMATS[found.format].next_step
    if next_step:
        print(f"next:\n  {next_step.format(path=found.path)}")
    return float(found.size)


def predict(config: DictConfig) -> float:
    """Classify pictures; return their number."""
    from pathlib import Path

    from bnn_lightning.workflows import prediction
    from bnn_lightning.workflows.settings import PredictSettings

    settings = read_settings(PredictSettings, config)
    if settings.ckpt is not None:
        refuse_missing_options()
    if settings.out is not None:
        refuse_second_job(Path(settings.out))
    with printed():
        return float(len(prediction.predict(**vars(settings), **_described(config))))


def profile(config: DictConfig) -> None:
    """Count a network, and print the counts in the format that is asked for."""
    from bnn_lightning.cli.facts import with_assumed_data
    from bnn_lightning.workflows import profiling
    from bnn_lightning.workflows.settings import ProfileSettings

    settings = read_settings(ProfileSettings, config)
    assumed = settings.ckpt is None and "_target_" in config.model and "_target_" not in config.data
    if assumed:
        config = with_assumed_data(config)
    with redirect_stdout(sys.stderr), printed():  # what is printed is the profile alone
        found = profiling.profile(**vars(settings), **_described(config), data_assumed=assumed)
    print({"text": found.text, "json": found.json, "csv": found.csv}[settings.format]())
    if settings.format == "csv" and assumed:
        print(profiling.ASSUMED, file=sys.stderr)


def verify(config: DictConfig) -> float:
    """Verify a packed file; return the bytes that were checked."""
    from bnn_lightning.workflows import verification
    from bnn_lightning.workflows.settings import VerifySettings

    found = verification.verify(read_settings(VerifySettings, config).packed)
    print(found)
    return float(found.size)


def benchmark(config: DictConfig) -> None:
    """Measure a packed network beside its rivals, and print a table."""
    from pathlib import Path

    from bnn_lightning.workflows import benchmarking
    from bnn_lightning.workflows.settings import BenchmarkSettings

    settings = read_settings(BenchmarkSettings, config)
    for key, path in (("out", settings.out), ("chart", settings.chart)):
        if path is not None:
            refuse_second_job(Path(path), key)
    with printed():
        found = benchmarking.benchmark(**vars(settings), **_described(config))
    print(found, flush=True)
    benchmarking.refuse_unfolded(found)


def rank(config: DictConfig) -> float:
    """Rank teachers; return the lowest knowledge complexity."""
    from bnn_lightning.cli.teachers import check_names, option_reader, refuse_no_teacher
    from bnn_lightning.workflows import messages, ranking
    from bnn_lightning.workflows.settings import RankSettings

    check_names(plain_values(config).get("teachers", []))
    settings = read_settings(RankSettings, config)
    refuse_no_teacher(settings.teachers)
    with _logs_to_stderr(settings.format == "json"), printed():
        described = {key: value for key, value in _described(config).items() if key != "model"}
        found = ranking.rank(
            **vars(settings), **described, trainer=plain_values(config.trainer), make_teacher=option_reader
        )
    with printed():
        messages.say(found.json() if settings.format == "json" else repr(found))
    return float(found.candidates[0].knowledge.complexity)


def prepare(config: DictConfig) -> float:
    """Prepare a folder of images; return the number of damaged files."""
    from bnn_lightning.workflows import preparation
    from bnn_lightning.workflows.settings import PrepareSettings

    with printed():
        found = preparation.prepare(**vars(read_settings(PrepareSettings, config)))
    print(f"next:\n  bnn train data={found.data} data.root={found.output}")
    return float(len(found.report.damaged))


def report(config: DictConfig) -> float:
    """Write the page of a run; return its size in bytes."""
    from bnn_lightning.workflows import reporting
    from bnn_lightning.workflows.settings import ReportSettings

    settings = read_settings(ReportSettings, config)
    refuse_second_job(reporting.page_path(settings))
    described = {key: value for key, value in _described(config).items() if key != "model"}
    with printed():
        found = reporting.report(**vars(settings), **described, trainer=plain_values(config.trainer))
    print(found, flush=True)
    return float(found.size)


def _described(config: DictConfig) -> dict[str, Any]:
    from bnn_lightning.cli.facts import described

    return vars(described(config))


@contextmanager
def _logs_to_stderr(wanted: bool) -> Iterator[None]:
    """Let progress bars and logs, too, go to stderr."""
    if not wanted:
        yield
        return
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
