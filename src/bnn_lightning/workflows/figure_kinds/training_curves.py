"""`bnn visualize training_curves=...`: how trainings went."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bnn_lightning.cli.schema import read_settings
from bnn_lightning.cli.visualize.output import place_of, run_name, save, save_table, several, typeable
from bnn_lightning.figures.training_curves import plot_training_curves, training_table
from bnn_lightning.utils.curves import Curves, read_curves
from bnn_lightning.workflows.errors import UserError

# What may differ between the runs of one group: their seed, and where they were written.
_OF_ONE_RUN = re.compile(r"[+~]*(seed=|hydra[./]|paths\.|logger|name=|ckpt_path=)")
_NUMBER = re.compile(r"[_-](seed)?\d+$")


@dataclass
class TrainingCurvesSettings:
    """The keys of `visualize/training_curves.yaml`."""

    training_curves: Any
    out: str
    formats: list[str]
    dpi: int
    labels: list[str] | None = None
    columns: int = 3


def draw(config: DictConfig) -> None:
    """Draw how trainings went.

    Args:
        config: As composed by Hydra from `visualize/training_curves.yaml`.

    Raises:
        UserError: A folder without a log, labels that do not fit, or runs that logged nothing.
    """
    settings = read_settings(TrainingCurvesSettings, config)
    runs = [run for path in several(settings.training_curves, "training_curves") for run in runs_of(Path(path))]
    labels = group_labels(runs) if settings.labels is None else settings.labels
    if len(labels) != len(runs):
        raise UserError(f"`labels` must be as many as there are runs ({len(runs)}), got {len(labels)}.")
    if settings.columns < 1:
        raise UserError(f"`columns` must be 1 or more, got {settings.columns}.")
    place = place_of(
        settings.out,
        f"training_curves_{'_'.join(dict.fromkeys(labels))}"[:100],
        formats=settings.formats,
        dpi=settings.dpi,
    )
    groups: dict[str, list[Curves]] = {}
    try:
        for run, label in zip(runs, labels, strict=True):
            groups.setdefault(label, []).append(read_curves(run))
        figure = plot_training_curves(groups, columns=settings.columns)
    except ValueError as error:
        raise UserError(str(error)) from error
    save_table(*training_table(groups), place.path("csv"))
    save({"": figure}, place)


def runs_of(path: Path) -> list[Path]:
    """Return a run's folder or a file as it is, and the runs in the folder of a sweep.

    Raises:
        UserError: There is no such place.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such folder or file.")
    if path.is_file() or any(path.glob("csv/**/metrics.csv")):
        return [path]
    jobs = [folder for folder in path.iterdir() if any(folder.glob("csv/**/metrics.csv"))]
    # Jobs of a sweep are numbered.
    return sorted(jobs, key=lambda job: (len(job.name), job.name)) or [path]


def group_labels(runs: Sequence[Path]) -> list[str]:
    """Return a name for each run, the same one for those that differ by their seed alone.

    Runs are told apart by their overrides, files by their name without a number at its end.
    """
    overrides = [_overrides(run) for run in runs]
    groups: dict[tuple[str, ...], list[Path]] = {}
    for run, words in zip(runs, overrides, strict=True):
        groups.setdefault(words, []).append(run)
    common = set.intersection(*map(set, groups))
    names = {words: _name(words, members, common) for words, members in groups.items()}
    alike = len(set(names.values())) < len(names)
    return [" ".join(words) if alike else names[words] for words in overrides]


def _overrides(run: Path) -> tuple[str, ...]:
    file = run / ".hydra" / "overrides.yaml"
    if not file.is_file():
        return (_NUMBER.sub("", run.stem if run.is_file() else run_name(run)),)
    words = [str(word) for word in OmegaConf.load(file)]
    return tuple(sorted(word for word in words if not _OF_ONE_RUN.match(word)))


def _name(words: tuple[str, ...], runs: Sequence[Path], common: set[str]) -> str:
    """Return what the folders of a group are called, or, where each is called otherwise, what its overrides say."""
    called = {_NUMBER.sub("", run.stem if run.is_file() else run_name(run)) for run in runs}
    if len(called) == 1 and not (name := called.pop()).isdigit():
        return name
    return " ".join(word for word in words if word not in common) or typeable(run_name(runs[0]))
