"""Latency of a packed network beside its baselines, in one process and in turns."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import seed_everything
from torch import nn

from bnn_lightning.analysis.latency import time_in_turns
from bnn_lightning.deploy.kernels.library import kernel_info
from bnn_lightning.deploy.validate.baselines import Runner
from bnn_lightning.deploy.validate.footprint import measure_footprint
from bnn_lightning.deploy.validate.profile import Share, time_shares
from bnn_lightning.models.registry import list_backbones
from bnn_lightning.utils.hardware import num_cores
from bnn_lightning.workflows.backends import BASELINES, PACKED, Backends, refusing
from bnn_lightning.workflows.benchmark_layers import measure_layers
from bnn_lightning.workflows.benchmark_network import Subject, make_subject, read_subject
from bnn_lightning.workflows.benchmark_report import BenchmarkReport, Measurement, chart, write_json
from bnn_lightning.workflows.errors import UserError, did_you_mean, listed
from bnn_lightning.workflows.opened import add_network, describe
from bnn_lightning.workflows.out_file import check_out
from bnn_lightning.workflows.process_state import contained
from bnn_lightning.workflows.settings import BenchmarkSettings, make_settings, takes

Plain = dict[str, Any]

_LEAST = 0.01  # seconds of a turn: several clock ticks, and short for a network of milliseconds
# Seconds before a turn. The threads of onnxruntime look for work for some 40 ms before they sleep, on a processor each.
_PAUSE, _LONG_PAUSE = 0.002, 0.1


@takes(BenchmarkSettings)
@contained()
def benchmark(
    network: str | Path | nn.Module | None = None,
    *,
    model: str | Plain | None = None,
    data: str | Plain | None = None,
    data_dir: str | Path | None = None,
    **options: Any,
) -> BenchmarkReport:
    """Measure latency, memory and load time of a packed network beside its baselines.

    Args:
        network: A packed file (.bnn) or a name of the zoo, a checkpoint or a run's folder, or a module that knows its
            `in_channels` and `image_size`. The keys `packed` and `ckpt` say which of the first it is.
        model: Network that was never trained, or of a published file: a name of `list_backbones()`, or a section of a
            configuration.
        data: Its data: a name, or a section of a configuration.
        data_dir: Folder of the data files; None: `BNN_DATA` of the environment, or "data".
        options: Keys of `BenchmarkSettings`.

    Raises:
        UserError: No network is named, or two; it cannot be packed; or with `strict`, a binary layer does not run in a
            compiled kernel.
    """
    add_network(network, options)
    if isinstance(network, nn.Module) and (model is not None or data is not None):
        raise UserError(f"{type(network).__name__} says itself what it is: leave `model` and `data` out.")
    settings = make_settings(BenchmarkSettings, "benchmark", **options)
    _check(settings)
    seed_everything(settings.seed, workers=False, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        if settings.layers:
            if settings.packed is not None or settings.ckpt is not None:
                raise UserError("`layers=true` measures layers of its own: leave `packed=` and `ckpt=` out.")
            _refuse_fallback(settings, [])
            report = measure_layers(settings, Path(folder))
        elif isinstance(network, nn.Module):
            subject = make_subject(network, {"name": type(network).__name__}, Path(folder), trust=settings.trust)
            report = measure_network(settings, subject, Path(folder))
        else:
            subject = read_subject(settings, describe(model, data, data_dir), Path(folder))
            report = measure_network(settings, subject, Path(folder))
    if settings.out is not None:
        write_json(report, Path(settings.out))
    if settings.chart is not None:
        chart(report, Path(settings.chart))
    return report


def refuse_unfolded(report: BenchmarkReport) -> None:
    """Refuse figures of a network of the registry that is slower than it could be.

    Raises:
        UserError: Operations behind its binary layers were not folded into them.
    """
    if report.unfolded and report.name in list_backbones():
        raise UserError(
            f"the packed {report.name} is slower than it could be, and so are the figures above: operations behind its "
            f"binary layers were not folded into them. {report.unfolded}"
        )


def measure_network(settings: BenchmarkSettings, subject: Subject, folder: Path) -> BenchmarkReport:
    """Measure a network beside its baselines.

    Args:
        settings: Settings of `bnn benchmark`.
        subject: The network.
        folder: For files that are not kept.

    Raises:
        UserError: With `strict`, a binary layer does not run in a compiled kernel.
    """
    info = subject.info
    images = torch.rand(max(settings.batch), *info.shape)
    torch.set_num_threads(1)
    shares = time_shares(subject.packed, images[:1])
    _refuse_fallback(settings, shares, subject.left)
    backends = Backends(subject, folder, larq=settings.larq)
    runners = backends.runners(list(BASELINES) if settings.baselines is None else settings.baselines)
    report = BenchmarkReport.of_machine(info.name, info.shape)
    report.shares, report.absent, report.unfolded = shares, backends.absent, subject.unfolded
    report.footprint = measure_footprint(subject.file)
    for number in settings.threads or sorted({1, num_cores()}):
        for batch in settings.batch:
            report.entries += run(runners, images[:batch], number, settings.repeats, report.absent)
    return report


def run(
    runners: Mapping[str, Runner], images: torch.Tensor, threads: int, repeats: int, absent: dict[str, str]
) -> list[Measurement]:
    """Time runners in turns on some images.

    Args:
        runners: By name.
        images: Images of one batch.
        threads: Number of threads of each runner.
        repeats: Turns of each.
        absent: Dictionary that takes the reasons of runners that fail, by name.
    """
    steps = {}
    for name, runner in runners.items():
        with refusing(absent, name):
            step = runner(threads, images)
            step()
            steps[name] = step
    if PACKED not in steps:
        raise UserError(f"the packed network cannot be run: {absent[PACKED]}")
    torch.set_num_threads(threads)
    turns = time_in_turns(steps, repeats=repeats, least=_LEAST, settle=_PAUSE if threads == 1 else _LONG_PAUSE)
    return [Measurement(name, threads, len(images), tuple(turns[name])) for name in steps]


def _check(settings: BenchmarkSettings) -> None:
    """Check settings that would fail only after minutes."""
    for name in settings.baselines or []:
        if name not in BASELINES:
            near = did_you_mean(name, BASELINES)
            raise UserError(f"`baselines`: there is no {name}.{near} There are: {listed(BASELINES)}.")
    for key, endings in (("out", (".json",)), ("chart", (".png", ".svg", ".pdf"))):
        given = getattr(settings, key)
        if given is None:
            continue
        if Path(given).suffix not in endings:
            raise UserError(f"`{key}` must end in {' or '.join(endings)}, got {given}.")
        check_out(Path(given), key)
    if settings.larq is not None and not Path(settings.larq).is_file():
        raise UserError(f"`larq`: there is no file {settings.larq}.")


def _refuse_fallback(
    settings: BenchmarkSettings, shares: Sequence[Share], left: Mapping[str, str] | None = None
) -> None:
    if not settings.strict:
        return
    kernel = kernel_info()
    if kernel.name == "torch" or any(share.binary and share.kernel == "torch" for share in shares):
        raise UserError(f"`strict`: binary layers run in torch, not in a compiled kernel. {kernel.reason}")
    if left:
        name, reason = next(iter(left.items()))
        raise UserError(f"`strict`: {len(left)} binary layers are not packed; `{name}`: {reason}.")
