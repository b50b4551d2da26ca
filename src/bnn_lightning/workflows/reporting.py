"""HTML page of a run: scores, curves, mistakes, counts and configuration."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pytorch_lightning import seed_everything
from torch import nn

from bnn_lightning.layers.module_utils import binary_layers, copy_network
from bnn_lightning.metrics.ops import count_columns
from bnn_lightning.metrics.profile import Profile, profile_rows
from bnn_lightning.report_page.content import Matrix, RunContent, Table
from bnn_lightning.report_page.page import render
from bnn_lightning.tasks.classification import ClassificationTask
from bnn_lightning.utils.curves import Curves, read_curves
from bnn_lightning.utils.image_size import sides
from bnn_lightning.workflows.checkpoint import network_file
from bnn_lightning.workflows.checks import check_devices, relaxed
from bnn_lightning.workflows.ending import duration
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.opened import Described, describe, known_classes, open_checkpoint
from bnn_lightning.workflows.out_file import check_out, written
from bnn_lightning.workflows.packed_facts import find_packed, latency_table, packed_table
from bnn_lightning.workflows.predictions import Predictions, predict
from bnn_lightning.workflows.process_state import contained
from bnn_lightning.workflows.profiling import profile_quickly
from bnn_lightning.workflows.run_folder import overrides_of
from bnn_lightning.workflows.settings import ReportSettings, make_settings, takes
from bnn_lightning.workflows.trainer import SCORING_TRAINER

Plain = dict[str, Any]


@dataclass(frozen=True)
class Reported:
    """Result of a report.

    Attributes:
        path: The page.
        size: Its bytes.
    """

    path: Path
    size: int

    def __repr__(self) -> str:
        return f"written: {self.path} ({self.size:,} bytes): one file, without a network"


@takes(ReportSettings)
@contained()
def report(
    run: str | Path,
    out: str | Path | None = None,
    *,
    data: str | Plain | None = None,
    data_dir: str | Path | None = None,
    trainer: Plain | None = None,
    **options: Any,
) -> Reported:
    """Write one HTML page of a run.

    Args:
        run: Its folder.
        out: The page; None: `report.html` in the folder.
        data: Set to score it on: see `evaluate`.
        data_dir: Folder of the data files, where those of the training are not there; None: `BNN_DATA` of the
            environment, or "data".
        trainer: Arguments of Lightning's Trainer.
        options: Keys of `ReportSettings`.

    Raises:
        UserError: A folder that is no run of ours, missing data, or a place that cannot be written.
    """
    settings = make_settings(ReportSettings, "report", run=run, out=out, **options)
    folder, page = Path(settings.run), page_path(settings)
    if not folder.is_dir():
        raise UserError(f"`run`: there is no folder {folder}; give that of a run, as `bnn train` names it at its end.")
    if page.suffix not in (".html", ".htm"):
        raise UserError(f"`out` must end in .html, got {page}.")
    check_out(page)
    node = SCORING_TRAINER | (trainer or {})
    check_devices(node)
    seed_everything(settings.seed, workers=True, verbose=False)
    text = render(gather(folder, describe(None, data, data_dir), settings, node))
    with written(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Reported(page, page.stat().st_size)


def page_path(settings: ReportSettings) -> Path:
    """Return the page that settings mean."""
    return Path(settings.run) / "report.html" if settings.out is None else Path(settings.out)


def gather(run: Path, described: Described, settings: ReportSettings, trainer: Plain) -> RunContent:
    """Return the content of a run's page.

    Args:
        run: Its folder.
        described: Data in the place of the run's own.
        settings: Settings of the report.
        trainer: The section of the configuration.

    Raises:
        UserError: See `report`.
    """
    file = network_file(run)
    if not file.is_file():
        raise UserError(f"`run`: {run} has no checkpoint (checkpoints/final.ckpt or last.ckpt) yet.")
    opened = open_checkpoint(file, described, trust=settings.trust)
    network, embedded = opened.task.backbone, opened.config
    datamodule = opened.datamodule(trust=settings.trust)
    names = _class_names(datamodule)
    seen = predict(network, datamodule, trainer, names=names, images=settings.images, examples=settings.examples)
    curves = _curves(run)
    size = (datamodule.in_channels, *sides(datamodule.image_size))
    profile = profile_quickly(lambda: copy_network(network), size)
    packed = find_packed(run)
    return RunContent(
        title=_title(run, embedded),
        subtitle=_subtitle(embedded, curves),
        facts=_facts(seen, profile, packed, curves),
        notes=_notes(seen, network, opened.data, settings, getattr(datamodule, "test_note", None)),
        curves=curves,
        examples=seen.first,
        mistakes=seen.mistakes,
        confusion=Matrix(seen.confusion.astype(np.float64), names),
        profile=Table(["", "", ""], profile_rows(profile)),
        layers=_layers(profile),
        signs=_signs(network, curves),
        bank=_bank(opened.task, names),
        packed=None if packed is None else packed_table(packed, file, latency=settings.latency),
        latency=latency_table(run),
        overrides=overrides_of(run) or [],
        config=yaml.safe_dump(embedded, sort_keys=False, allow_unicode=True),
    )


def _title(run: Path, embedded: Mapping[str, Any]) -> str:
    name = str(embedded.get("name") or "")
    folder = run.resolve().name
    return folder if not name or name in folder else f"{name}, {folder}"


def _subtitle(embedded: Mapping[str, Any], curves: Curves) -> str:
    model, data = embedded["model"], embedded["data"]
    epochs = len(curves.get("epoch", []))
    planned = embedded.get("epochs")
    trained = f"{epochs} of {planned} epochs" if epochs and planned and epochs < planned else f"{planned} epochs"
    how = "" if model.get("binary", True) is True else ", the float twin" if model.get("binary") is False else ""
    return f"{model.get('name', 'a network')}{how} on {data.get('name')}, {trained}, seed {embedded.get('seed')}"


def _facts(seen: Predictions, profile: Profile, packed: Path | None, curves: Curves) -> dict[str, str]:
    totals = profile.totals()
    facts = {
        "top-1, test": f"{100 * seen.top1:.2f} %",
        "top-5, test": f"{100 * seen.in_five / max(1, seen.images):.2f} %",
        "loss, test": f"{seen.loss / max(1, seen.images):.4f}",
        "parameters": f"{totals['parameters']:,}",
        "of them binary": f"{100 * totals['binary_parameter_share']:.1f} %",
        "operations": f"{totals['ops'] / 1e6:.2f} M",
        "size at a bit a sign": f"{totals['size_bytes'] / 1e3:,.1f} kB",
    }
    if packed is not None:
        facts["packed file"] = f"{packed.stat().st_size / 1e3:,.1f} kB"
    seconds = [value for value in curves.get("s_per_epoch", []) if math.isfinite(value)]
    if seconds:
        facts["training time"] = duration(sum(seconds))
    return facts


def _notes(
    seen: Predictions, network: nn.Module, data: Mapping[str, Any], settings: ReportSettings, test_note: str | None
) -> list[str]:
    notes = [f"Scored on {seen.images:,} test images of {data.get('name')}, when this page was written."]
    if settings.images is not None and seen.images >= settings.images:
        notes[0] += f" At most {settings.images:,} were asked for, in whole batches: images=null takes all."
    if test_note is not None:
        notes.append(f"Test scores: {test_note}.")
    if (warning := relaxed(network)) is not None:
        notes.append(warning)
    return notes


def _curves(run: Path) -> Curves:
    try:
        return read_curves(run)
    except ValueError:  # trained without the CSV logger: the page has no charts
        return {}


def _class_names(datamodule: Any) -> list[str]:
    names = known_classes(datamodule)
    return list(names) if len(names) == datamodule.num_classes else list(map(str, range(datamodule.num_classes)))


def _layers(profile: Profile) -> Table:
    columns = ["name", "kind", *count_columns(profile.count)]
    rows = [tuple(getattr(layer, column) for column in columns) for layer in profile.count.layers]
    return Table([column.replace("_", " ") for column in columns], rows)


def _signs(network: nn.Module, curves: Curves) -> Table | None:
    layers = binary_layers(network)
    if not layers:
        return None
    rates = {name: _last(curves.get(f"binary/flip_rate/{name}", [])) for name in layers}
    logged = any(rate is not None for rate in rates.values())
    rows: list[list[str | int | float]] = []
    for name, layer in layers.items():
        with torch.no_grad():
            positive = float((layer.binary_weight > 0).float().mean())
        rate = rates[name]
        flips = [f"{100 * rate:.3f}" if rate is not None else ""] if logged else []
        rows.append([name, type(layer).__name__, layer.weight.numel(), round(100 * positive, 2), *flips])
    return Table(["layer", "kind", "weights", "of them +1, %", *(["flipped in the last epoch, %"] * logged)], rows)


def _last(values: list[float]) -> float | None:
    return next((value for value in reversed(values) if math.isfinite(value)), None)


def _bank(task: ClassificationTask, names: list[str]) -> Matrix | None:
    bank = getattr(task.distiller, "bank", None)
    logits, valid = getattr(bank, "bank", None), getattr(bank, "valid", None)
    if not isinstance(logits, torch.Tensor) or not isinstance(valid, torch.Tensor) or not bool(valid.any()):
        return None
    shares = torch.where(valid[:, None], logits.float().softmax(1), 0.0)
    return Matrix(shares.cpu().double().numpy(), names)
