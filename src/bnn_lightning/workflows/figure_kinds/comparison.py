"""Accuracy of networks against their cost: published ones and own runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from bnn_lightning.figures.comparison import (
    ComparedNetwork,
    Cost,
    accuracy_against_cost,
    comparison_table,
    counted,
    published,
)
from bnn_lightning.layers.module_utils import copy_network
from bnn_lightning.utils.curves import read_last
from bnn_lightning.utils.image_size import sides
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.figure_kinds.base import Drawing, FigureSettings, Place, run_names
from bnn_lightning.workflows.figure_kinds.runs import read_run
from bnn_lightning.workflows.opened import Described
from bnn_lightning.workflows.profiling import profile_quickly, profiles_of
from bnn_lightning.workflows.sections import data_section

# Names of runtimes in files of `bnn benchmark`, and in the table of published networks.
_COMPACT = {"mobilenet_v2_int8": "MobileNetV2, int8", "mobilenet_v3_int8": "MobileNetV3-L, int8"}


@dataclass(kw_only=True)
class ComparisonSettings(FigureSettings):
    """The keys of `visualize/comparison.yaml`."""

    comparison: str
    cost: Any = field(default="ops", metadata={"choices": get_args(Cost)})
    runs: list[str] = field(default_factory=list)
    benchmarks: list[str] = field(default_factory=list)
    names: bool = True

    def stem(self, described: Described) -> str:
        return f"comparison_{self.comparison}_{self.cost}"


def draw(settings: ComparisonSettings, described: Described, place: Place) -> Drawing:
    """Count published networks and those of runs."""
    data = settings.comparison
    if settings.benchmarks and len(settings.benchmarks) != len(settings.runs):
        raise UserError(
            f"`benchmarks` must be as many as `runs` ({len(settings.runs)}), one a run in the same order, got "
            f"{len(settings.benchmarks)}."
        )
    entries = published(data)
    networks = dict.fromkeys(entry.network for entry in entries if entry.network and entry.ops is None)
    entries = counted(entries, profiles_of(list(networks), data_section(data))) + _own(settings)
    for file in settings.benchmarks:
        entries = _with_compact(entries, _latencies(file))
    figure = accuracy_against_cost(entries, cost=settings.cost, names=settings.names)
    return Drawing({"": figure}, comparison_table(entries))


def _own(settings: ComparisonSettings) -> list[ComparedNetwork]:
    entries = []
    benchmarks: list[str | None] = [*settings.benchmarks] or [None] * len(settings.runs)
    for run, name, benchmark in zip(settings.runs, run_names(settings.runs), benchmarks, strict=True):
        entry = own_entry(run, name, data=settings.comparison, trust=settings.trust)
        latency = None if benchmark is None else _latencies(benchmark).get("packed")
        entries.append(replace(entry, latency=latency))
    return entries


def own_entry(run: str, name: str, *, data: str, trust: Sequence[str] = ()) -> ComparedNetwork:
    """Return the row of a run of ours: its last test accuracy, and the cost of its network.

    Args:
        run: The run's folder.
        name: Name in the figure.
        data: On which it must have been trained.
        trust: See `load_task`.

    Raises:
        UserError: It was trained on other data, never scored, or cannot be read.
    """
    opened = read_run(run, Described(), trust=trust)
    section = opened.data
    if section.get("name") != data:
        raise UserError(f"{run} was trained on {section.get('name')}, and `comparison` is {data}.")
    accuracy = read_last(run).get("test/acc")
    if accuracy is None:
        raise UserError(f"{run} has not logged `test/acc`: it was not scored on the test set.")
    size = (section["in_channels"], *sides(section["image_size"]))
    totals = profile_quickly(lambda: copy_network(opened.network), size).totals()
    costs = {"ops": float(totals["ops"]), "size": totals["size_bytes"] / 1e6, "ace": float(totals["ace"])}
    return ComparedNetwork(name, 100 * accuracy, kind="ours", data=data, source=run, **costs)  # type: ignore[arg-type]


def _latencies(file: str) -> dict[str, float]:
    """Return milliseconds per image on one thread, by backend, from a file of `bnn benchmark`."""
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
        entries = [entry for entry in found["entries"] if (entry["threads"], entry["batch"]) == (1, 1)]
        return {entry["name"]: 1e3 * float(entry["median"]) for entry in entries}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{file} is not what `bnn benchmark out=...` writes: {error}") from error


def _with_compact(entries: Sequence[ComparedNetwork], latencies: Mapping[str, float]) -> list[ComparedNetwork]:
    by_name = {_COMPACT[name]: latency for name, latency in latencies.items() if name in _COMPACT}
    return [replace(e, latency=by_name[e.name]) if e.name in by_name else e for e in entries]
