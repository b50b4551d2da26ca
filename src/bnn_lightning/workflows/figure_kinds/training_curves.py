"""Training curves of runs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnn_lightning.figures.training_curves import plot_training_curves, training_table
from bnn_lightning.utils.curves import Curves, read_curves
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.figure_kinds.base import Drawing, FigureSettings, Place, run_name, several, typeable
from bnn_lightning.workflows.opened import Described
from bnn_lightning.workflows.run_folder import overrides_of

# Keys that may differ between the runs of one group: their seed, and the places of their files.
_OF_ONE_RUN = re.compile(r"[+~]*(seed=|hydra[./]|paths\.|logger|name=|ckpt_path=)")
_NUMBER = re.compile(r"[_-](seed)?\d+$")


@dataclass(kw_only=True)
class TrainingCurvesSettings(FigureSettings):
    """The keys of `visualize/training_curves.yaml`."""

    training_curves: Any
    labels: list[str] | None = None
    columns: int = 3

    def stem(self, described: Described) -> str:
        return f"training_curves_{'_'.join(dict.fromkeys(self.lines()[1]))}"[:100]

    def lines(self) -> tuple[list[Path], list[str]]:
        """Return the runs, and the label of each."""
        paths = several(self.training_curves, "training_curves")
        runs = [run for path in paths for run in runs_of(Path(path))]
        labels = group_labels(runs) if self.labels is None else self.labels
        if len(labels) != len(runs):
            raise UserError(f"`labels` must be as many as there are runs ({len(runs)}), got {len(labels)}.")
        return runs, labels


def draw(settings: TrainingCurvesSettings, described: Described, place: Place) -> Drawing:
    """Read the curves of trainings; runs that differ by their seed are one line."""
    groups: dict[str, list[Curves]] = {}
    for run, label in zip(*settings.lines(), strict=True):
        groups.setdefault(label, []).append(read_curves(run))
    return Drawing({"": plot_training_curves(groups, columns=settings.columns)}, training_table(groups))


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
    words = overrides_of(run)
    if words is None:
        return (_NUMBER.sub("", run.stem if run.is_file() else run_name(run)),)
    return tuple(sorted(word for word in words if not _OF_ONE_RUN.match(word)))


def _name(words: tuple[str, ...], runs: Sequence[Path], common: set[str]) -> str:
    """Return the name that all folders of a group share; if they differ, the overrides that the runs share."""
    called = {_NUMBER.sub("", run.stem if run.is_file() else run_name(run)) for run in runs}
    if len(called) == 1 and not (name := called.pop()).isdigit():
        return name
    return " ".join(word for word in words if word not in common) or typeable(run_name(runs[0]))
