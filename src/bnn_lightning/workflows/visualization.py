"""Figures of networks and runs, and the numbers that they show."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from bnn_lightning.utils.optional import require
from bnn_lightning.workflows.arguments import check_value
from bnn_lightning.workflows.errors import UserError, as_user_error, listed
from bnn_lightning.workflows.figure_kinds import KINDS, unknown_kind
from bnn_lightning.workflows.figure_kinds.base import place_of, save
from bnn_lightning.workflows.opened import describe
from bnn_lightning.workflows.process_state import contained
from bnn_lightning.workflows.settings import make_settings

Plain = dict[str, Any]


@dataclass(frozen=True)
class Visualized:
    """Result of a visualization.

    Attributes:
        files: Figures, then tables and arrays of the numbers that they show.
        figures: Figures of matplotlib and plotly by part of the file's name, "" for the first.
        header: Names of the columns of the table.
        rows: Rows of the table.
    """

    files: list[Path]
    figures: Mapping[str, Any]
    header: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()

    def __repr__(self) -> str:
        return "\n".join(f"written: {file}" for file in self.files) or "no file was written"


@contained()
def visualize(
    kind: str,
    subject: str | Path | Sequence[str | Path],
    *,
    data: str | Plain | None = None,
    data_dir: str | Path | None = None,
    ending: str = "",
    **options: Any,
) -> Visualized:
    """Draw a figure of networks or runs, and write it with the numbers that it shows.

    Args:
        kind: One of `training_curves`, `comparison`, `binarization`, `graph`, `landscape`, `modules`, `feature_maps`,
            `embedding`, `soft_label_heatmap`, `signs`, `surrogates`, `pipeline`.
        subject: Subject of the figure: runs, names of networks or binarizers, a data set, as the kind has it.
        data: Set whose images are shown: see `evaluate`.
        data_dir: Folder of the data files, where those of the training are not there; None: `BNN_DATA` of the
            environment, or "data".
        ending: End of the names of files in a folder.
        options: Keys of the kind; all have `out`, `formats`, `dpi` and `trust`.

    Raises:
        UserError: An unknown kind or key, a run that cannot be read, or a library that is not installed.
    """
    module = _module(kind)
    with as_user_error(of=(ValueError, ModuleNotFoundError)):
        subjects = [str(path) for path in subject] if isinstance(subject, list | tuple) else subject
        settings: Any = make_settings(settings_of(kind), f"visualize.{kind}", **{kind: subjects}, **options)
        described = describe(None, data, data_dir)
        stem = settings.stem(described)
        place = place_of(settings.out, stem, formats=settings.formats, dpi=settings.dpi, ending=ending)
        drawing = module.draw(settings, described, place)
    header, rows = drawing.table or ((), ())
    rows = [list(row) for row in rows]
    drawing = replace(drawing, table=(header, rows)) if header else drawing
    return Visualized(save(drawing, place), drawing.figures, header, rows)


def settings_of(kind: str) -> type:
    """Return the dataclass of a kind's settings, such as `SignsSettings` of `signs`.

    Raises:
        UserError: An unknown kind, or matplotlib is not installed.
    """
    settings: type = getattr(_module(kind), f"{kind.title().replace('_', '')}Settings")
    return settings


def _module(kind: str) -> ModuleType:
    check_value(kind, str, "visualize.kind")
    if kind not in KINDS:
        raise UserError(f"{unknown_kind(kind)} There are: {listed(KINDS)}.")
    with as_user_error(of=(ModuleNotFoundError,)):
        require("matplotlib", extra="visualize")
    # Imported late: one kind does without the libraries of the others.
    return importlib.import_module(f"bnn_lightning.workflows.figure_kinds.{kind}")
