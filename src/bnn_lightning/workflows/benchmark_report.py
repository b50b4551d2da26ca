"""Results of a benchmark: as a table, as JSON, as a chart."""

import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from bnn_lightning.analysis.latency import Timing, quartiles
from bnn_lightning.deploy.kernels.library import kernel_info
from bnn_lightning.deploy.validate.footprint import Footprint
from bnn_lightning.deploy.validate.profile import Share
from bnn_lightning.utils.hardware import num_cores, processor
from bnn_lightning.utils.optional import require
from bnn_lightning.utils.text import number_of
from bnn_lightning.workflows.backends import PACKED
from bnn_lightning.workflows.out_file import written

_LIBRARIES = ("bnn-lightning", "torch", "torchvision", "onnxruntime", "openvino", "nncf", "larq-compute-engine")
_MIB = 1 << 20


@dataclass(frozen=True)
class Measurement:
    """Measurements of one backend.

    Attributes:
        name: Name of the backend.
        threads: Number of threads.
        batch: Images of a call.
        turns: Seconds of a call, by the clock and of the processor, one a repeat.
        layer: Name of the layer, where single layers are measured.
    """

    name: str
    threads: int
    batch: int
    turns: tuple[Timing, ...]
    layer: str = ""

    @property
    def clock(self) -> str:
        """Clock that counts: for one thread the processor's, which neighbors disturb less, otherwise wall time."""
        return "cpu" if self.threads == 1 else "wall"

    @property
    def seconds(self) -> list[float]:
        """Seconds of a call, by `clock`, one a repeat."""
        return [getattr(turn, self.clock) for turn in self.turns]

    @property
    def median(self) -> float:
        """Median of `seconds`."""
        return quartiles(self.seconds)[1]

    @property
    def wall(self) -> float:
        """Median by the clock."""
        return quartiles([turn.wall for turn in self.turns])[1]


@dataclass(repr=False)
class BenchmarkReport:
    """All that a benchmark found.

    Attributes:
        name: Name of the network.
        image: Channels, height and width.
        machine: Machine of the measurement.
        versions: Versions of libraries.
        entries: One a backend, number of threads and batch.
        absent: Backends that were not measured, with the reason.
        footprint: Memory of the packed file in a fresh process.
        shares: Time of the operations of the packed network, one thread, one image.
        unfolded: Operations that could be folded into binary layers and are not, with the reason; or empty.
    """

    name: str
    image: tuple[int, ...]
    machine: dict[str, Any]
    versions: dict[str, str]
    entries: list[Measurement] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    footprint: Footprint | None = None
    shares: list[Share] = field(default_factory=list)
    unfolded: str = ""

    def __repr__(self) -> str:
        return text(self)

    @classmethod
    def of_machine(cls, name: str, image: tuple[int, ...]) -> "BenchmarkReport":
        """Begin a report of this machine."""
        kernel = kernel_info()
        machine = {"processor": processor(), "cores": num_cores(), "system": platform.platform()}
        machine |= {"python": platform.python_version(), "kernel": kernel.name, "why_no_kernel": kernel.reason}
        return cls(name, image, machine, dict(_versions()) | {"torch": torch.__version__})

    def entry(self, name: str, *, threads: int = 1, batch: int = 1, layer: str = "") -> Measurement | None:
        """Return the measurement of a backend, None if there is none."""
        wanted = (name, threads, batch, layer)
        return next((e for e in self.entries if (e.name, e.threads, e.batch, e.layer) == wanted), None)

    def ratio(self, baseline: str, *, threads: int = 1, batch: int = 1, layer: str = "") -> float | None:
        """Return the time of a baseline over that of the packed network, None if one was not measured."""
        ours, theirs = (self.entry(name, threads=threads, batch=batch, layer=layer) for name in (PACKED, baseline))
        return None if ours is None or theirs is None else theirs.median / ours.median


def text(report: BenchmarkReport) -> str:
    """Return tables: latency by number of threads and batch, what was not measured, memory, and time by operation."""
    machine = report.machine
    name = ", ".join([report.name, " x ".join(map(str, report.image))] if report.image else [report.name])
    lines = [f"{name}, on {machine['processor']}, kernel {machine['kernel']}"]
    lines += [f"  {machine['why_no_kernel']}"] if machine["why_no_kernel"] else []
    lines += [f"NOT FOLDED, the packed network is slower than it could be: {report.unfolded}"] * bool(report.unfolded)
    lines += [", ".join(f"{name} {number}" for name, number in report.versions.items())]
    for (threads, batch), entries in _groups(report.entries):
        found = list(entries)
        lines += ["", *(_layers(threads, found) if found[0].layer else _latencies(threads, batch, found))]
    lines += [""] * bool(report.absent)
    lines += [f"not measured: {name}: {reason}" for name, reason in report.absent.items()]
    return "\n".join([*lines, *_footprint(report.footprint), *_shares(report.shares)])


def _groups(entries: list[Measurement]) -> Iterator[tuple[tuple[int, int], Iterator[Measurement]]]:
    def key(entry: Measurement) -> tuple[int, int]:
        return entry.threads, entry.batch

    return groupby(sorted(entries, key=key), key=key)


def _latencies(threads: int, batch: int, entries: list[Measurement]) -> Iterator[str]:
    ours = next((entry.median for entry in entries if entry.name == PACKED), None)
    yield f"{_heading(threads)}, batch {batch}: median, quartiles of the repeats, times the packed one"
    width = max(len(entry.name) for entry in entries)
    for entry in sorted(entries, key=lambda entry: entry.median):
        first, median, third = (1e3 * value for value in quartiles(entry.seconds))
        ratio = "" if ours is None else f"{entry.median / ours:9.2f} x"
        yield f"  {entry.name:<{width}}  {median:10.3f}   {f'{first:.3f} .. {third:.3f}':<24}{ratio}".rstrip()


def _layers(threads: int, entries: list[Measurement]) -> Iterator[str]:
    yield f"{_heading(threads)}; in brackets times the packed layer"
    for layer, group in groupby(entries, key=lambda entry: entry.layer):
        found = {entry.name: entry.median for entry in group}
        ours = found.get(PACKED)
        parts = [
            f"{name} {1e3 * median:.3f}" + ("" if ours is None or name == PACKED else f" ({median / ours:.1f} x)")
            for name, median in found.items()
        ]
        yield f"  {layer:<12}" + "".join(f"{part:<36}" for part in parts).rstrip()


def _heading(threads: int) -> str:
    return f"{number_of(threads, 'thread')}, ms of {'processor time' if threads == 1 else 'time'} a call"


def _footprint(found: Footprint | None) -> list[str]:
    if found is None:
        return []
    return [
        "",
        f"packed file: {found.file:,} bytes; in a fresh process it loads in {1e3 * found.load_seconds:.0f} ms, and the "
        f"first image takes {1e3 * found.first_seconds:.0f} ms;",
        f"             peak memory {found.peak / _MIB:.0f} MiB, of which {found.before / _MIB:.0f} MiB before it loads",
    ]


def _shares(shares: Sequence[Share]) -> Iterator[str]:
    if not shares:
        return
    whole = sum(share.seconds for share in shares)
    yield from ("", f"where the time of the packed network goes (1 thread, 1 image, {1e3 * whole:.3f} ms in all):")
    few = [share for share in shares if share.seconds < 0.01 * whole]
    for share in shares:
        if share not in few:
            shape = "x".join(map(str, share.shape))
            kernel = f"{share.kernel}, binary" if share.binary else share.kernel
            part = f"{1e6 * share.seconds:9.1f} us {100 * share.seconds / whole:5.1f} %"
            yield f"  {share.operation:<24} {shape:<16} {kernel:<18} {part}"
    if few:
        rest = sum(share.seconds for share in few)
        yield f"  {len(few)} others, of less than 1 % each {'':26} {1e6 * rest:9.1f} us {100 * rest / whole:5.1f} %"


def write_json(report: BenchmarkReport, path: Path) -> None:
    """Write all of a report, with every repeat."""
    plain = asdict(report)
    for entry, plain_entry in zip(report.entries, plain["entries"], strict=True):
        first, median, third = quartiles(entry.seconds)
        plain_entry |= {"clock": entry.clock, "median": median, "first_quartile": first, "third_quartile": third}
    with written(path) as temporary:
        temporary.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def chart(report: BenchmarkReport, path: Path) -> None:
    """Draw bars of the medians with their quartiles, one picture for all numbers of threads and batches.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    figure_module = require("matplotlib.figure", extra="benchmark")
    groups = [(key, list(group)) for key, group in _groups(report.entries)]
    height = 1.0 + 0.32 * max(len(entries) for _, entries in groups)
    figure = figure_module.Figure(figsize=(6.5 * len(groups), height), layout="constrained")
    for place, ((threads, batch), entries) in enumerate(groups, start=1):
        axes = figure.add_subplot(1, len(groups), place)
        entries.sort(key=lambda entry: entry.median, reverse=True)
        spread = [quartiles(entry.seconds) for entry in entries]
        medians = [1e3 * median for _, median, _ in spread]
        errors = [
            [1e3 * (median - first) for first, median, _ in spread],
            [1e3 * (third - median) for _, median, third in spread],
        ]
        colors = ["tab:orange" if entry.name == PACKED else "tab:blue" for entry in entries]
        names = [f"{entry.name} {entry.layer}".strip() for entry in entries]
        bars = axes.barh(names, medians, xerr=errors, color=colors)
        axes.bar_label(bars, fmt="%.2f", padding=4)
        axes.margins(x=0.15)
        axes.set_xlabel(f"ms a call of {number_of(batch, 'image')}, {number_of(threads, 'thread')}")
    figure.suptitle(f"{report.name}, {report.machine['processor']}")
    with written(path, "chart") as temporary:
        figure.savefig(temporary)


def _versions() -> Iterator[tuple[str, str]]:
    for name in _LIBRARIES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue
