"""`bnn visualize comparison=...`: accuracy against cost, published and measured here."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from omegaconf import DictConfig

from bnn_lightning.cli.schema import read_settings
from bnn_lightning.cli.visualize.output import place_of, run_names, save, save_table
from bnn_lightning.cli.visualize.registry import profiles_of
from bnn_lightning.figures.comparison import Cost, Entry, accuracy_against_cost, comparison_table, counted, published
from bnn_lightning.utils.curves import read_last
from bnn_lightning.utils.image_size import sides
from bnn_lightning.workflows.checkpoint import embedded_config, load_backbone, network_file, read_checkpoint
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.log_filters import silence
from bnn_lightning.workflows.profiling import profile_quickly

CHOICES = {"cost": get_args(Cost)}
# Of the rivals in what `bnn benchmark` writes: how the table of published networks calls them.
_RIVALS = {"mobilenet_v2_int8": "MobileNetV2, int8", "mobilenet_v3_int8": "MobileNetV3-L, int8"}


@dataclass
class ComparisonSettings:
    """The keys of `visualize/comparison.yaml`."""

    comparison: str
    out: str
    formats: list[str]
    dpi: int
    cost: Any
    runs: list[str] = field(default_factory=list)
    benchmarks: list[str] = field(default_factory=list)
    names: bool = True
    trust: list[str] = field(default_factory=list)


def draw(config: DictConfig) -> None:
    """Draw accuracy against cost.

    Args:
        config: As composed by Hydra from `visualize/comparison.yaml`.

    Raises:
        UserError: A data set without published results, a run of another one, or one that was never scored.
    """
    settings = read_settings(ComparisonSettings, config, CHOICES)
    silence()
    data = settings.comparison
    if settings.benchmarks and len(settings.benchmarks) != len(settings.runs):
        raise UserError(
            f"`benchmarks` must be as many as `runs` ({len(settings.runs)}), one a run in the same order, got "
            f"{len(settings.benchmarks)}."
        )
    place = place_of(settings.out, f"comparison_{data}_{settings.cost}", formats=settings.formats, dpi=settings.dpi)
    try:
        entries = published(data)
        networks = dict.fromkeys(entry.network for entry in entries if entry.network and entry.ops is None)
        entries = counted(entries, profiles_of(list(networks), data)) + _own(settings)
        for file in settings.benchmarks:
            entries = _with_rivals(entries, _latencies(file))
        figure = accuracy_against_cost(entries, cost=settings.cost, names=settings.names)
    except ValueError as error:
        raise UserError(str(error)) from error
    save_table(*comparison_table(entries), place.path("csv"))
    save({"": figure}, place)


def _own(settings: ComparisonSettings) -> list[Entry]:
    entries = []
    benchmarks: list[str | None] = [*settings.benchmarks] or [None] * len(settings.runs)
    for run, name, benchmark in zip(settings.runs, run_names(settings.runs), benchmarks, strict=True):
        entry = own_entry(run, name, data=settings.comparison, trust=settings.trust)
        latency = None if benchmark is None else _latencies(benchmark).get("packed")
        entries.append(replace(entry, latency=latency))
    return entries


def own_entry(run: str, name: str, *, data: str, trust: Sequence[str] = ()) -> Entry:
    """Return the row of a run of ours: its last test accuracy, and what its network costs.

    Args:
        run: The run's folder.
        name: What to call it.
        data: On which it must have been trained.
        trust: See `load_task`.

    Raises:
        UserError: It was trained on other data, never scored, or cannot be read.
    """
    file = network_file(run)
    section = embedded_config(read_checkpoint(file), file)["data"]
    if section.get("name") != data:
        raise UserError(f"{run} was trained on {section.get('name')}, and `comparison` is {data}.")
    accuracy = read_last(run).get("test/acc")
    if accuracy is None:
        raise UserError(f"{run} has not logged `test/acc`: it was not scored on the test set.")
    network = load_backbone(file, trust=trust)
    size = (section["in_channels"], *sides(section["image_size"]))
    totals = profile_quickly(lambda: copy.deepcopy(network), size).totals()
    costs = {"ops": float(totals["ops"]), "size": totals["size_bytes"] / 1e6, "ace": float(totals["ace"])}
    return Entry(name, 100 * accuracy, kind="ours", data=data, source=run, **costs)  # type: ignore[arg-type]


def _latencies(file: str) -> dict[str, float]:
    """Return milliseconds of an image on one thread, by contestant, of what `bnn benchmark` wrote."""
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
        entries = [entry for entry in found["entries"] if (entry["threads"], entry["batch"]) == (1, 1)]
        return {entry["name"]: 1e3 * float(entry["median"]) for entry in entries}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{file} is not what `bnn benchmark out=...` writes: {error}") from error


def _with_rivals(entries: Sequence[Entry], latencies: Mapping[str, float]) -> list[Entry]:
    by_name = {_RIVALS[name]: latency for name, latency in latencies.items() if name in _RIVALS}
    return [replace(e, latency=by_name[e.name]) if e.name in by_name else e for e in entries]
