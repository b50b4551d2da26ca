"""Settings that all kinds of figures share, and their output files."""

import csv
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bnn_lightning.utils.optional import require
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.messages import say
from bnn_lightning.workflows.opened import Described
from bnn_lightning.workflows.out_file import check_out, written

STATIC = ("png", "svg", "pdf")
INTERACTIVE = "html"


@dataclass(kw_only=True)
class FigureSettings(ABC):
    """The keys that all kinds have; each adds its own, the first called as the kind, which says what is shown."""

    out: str = "visualize"
    formats: list[str] = field(default_factory=lambda: ["png"])
    dpi: int = 150
    trust: list[str] = field(default_factory=list)

    @abstractmethod
    def stem(self, described: Described) -> str:
        """Return the stem of the names of files in a folder; `described` names the data."""


@dataclass(frozen=True)
class Drawing:
    """Figures, and the numbers that they show.

    Attributes:
        figures: By part of the file's name, "" for none.
        table: Names of the columns and the rows of the CSV file; None writes none.
        arrays: By name, for a file of NumPy; none writes none.
        part: Part of the table's name.
        files: Other files that were written.
    """

    figures: Mapping[str, Any]
    table: tuple[Sequence[str], Iterable[Sequence[Any]]] | None = None
    arrays: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""
    files: Sequence[Path] = ()


@dataclass(frozen=True)
class Place:
    """Output files of one command.

    Attributes:
        folder: Exists.
        stem: Beginning of the names of all files.
        formats: Suffixes of figures, without the dot.
        dpi: Resolution of PNG.
        ending: End of the stem.
    """

    folder: Path
    stem: str
    formats: tuple[str, ...]
    dpi: int
    ending: str = ""

    def path(self, suffix: str, part: str = "") -> Path:
        """Return the path of a file: `<folder>/<stem>_<part>.<suffix>`."""
        return self.folder / f"{self.stem}{'_' if part else ''}{part}.{suffix}"


def place_of(out: str, name: str, *, formats: Sequence[str] = ("png",), dpi: int = 150, ending: str = "") -> Place:
    """Return the place of the output files, checked before long work starts; a missing folder is made.

    Args:
        out: A folder, or a file with the suffix of a figure, whose stem is then that of all files.
        name: Beginning of the names of files in a folder; characters that cannot be typed as an override become `_`.
        formats: Formats of figures in a folder.
        dpi: Resolution of PNG.
        ending: End of the files' stem, which tells the jobs of a sweep apart.

    Raises:
        UserError: A format that does not exist, or a place that cannot be.
    """
    known = (*STATIC, INTERACTIVE)
    if not formats:
        raise UserError(f"`formats` must name one or more of {', '.join(known)}, got [].")
    if unknown := [name for name in formats if name not in known]:
        raise UserError(f"`formats`: `{unknown[0]}` is none of {', '.join(known)}.")
    path = Path(out)
    suffix = path.suffix.removeprefix(".")
    if suffix in known and not path.is_dir():
        stem = path.stem + ending
        check_out(path.with_stem(stem))
        return Place(path.parent, stem, (suffix,), dpi, ending)
    if suffix and not path.is_dir():
        raise UserError(f"`out` must be a folder or end in one of .{', .'.join(known)}, got {out}.")
    if path.is_file():
        raise UserError(f"`out`: {out} is a file without the suffix of a figure.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"`out`: {out} cannot be made: {error.strerror}.") from error
    stem = typeable(name) + ending
    check_out(path / stem)
    return Place(path, stem, tuple(formats), dpi, ending)


def save(drawing: Drawing, place: Place) -> list[Path]:
    """Write figures and their numbers, say where, and return the files.

    Figures of matplotlib are written in every static format that is asked for, those of plotly as pages that work
    without a network where HTML is.
    """
    drawn = [path for part, figure in drawing.figures.items() for path in _save_figure(figure, part, place)]
    if not drawn:
        say(f"no figure: this one is drawn as {', '.join(STATIC)}, see `formats` and `out`")
    numbers = []
    if drawing.table is not None:
        numbers.append(place.path("csv", drawing.part))
        _save_table(*drawing.table, numbers[-1])
    if drawing.arrays:
        numbers.append(place.path("npz"))
        with written(numbers[-1]) as temporary:
            np.savez_compressed(temporary, **drawing.arrays)
    files = [*drawn, *numbers, *drawing.files]
    for path in files:
        say(f"written: {path}")
    return files


def _save_figure(figure: Any, part: str, place: Place) -> Iterator[Path]:
    if hasattr(figure, "write_html"):
        if INTERACTIVE in place.formats:
            path = place.path(INTERACTIVE, part)
            with written(path) as temporary:
                figure.write_html(temporary, include_plotlyjs=True)
            yield path
        return
    for suffix in STATIC:
        if suffix in place.formats:
            path = place.path(suffix, part)
            _save_static(figure, path, place.dpi)
            yield path


def _save_static(figure: Any, path: Path, dpi: int) -> None:
    # Imported late, as it is an extra. Text stays text in SVG, and equal figures are equal files.
    matplotlib = require("matplotlib", extra="visualize")
    style = {"svg.fonttype": "none", "svg.hashsalt": "bnn-lightning"}
    with matplotlib.rc_context(style), written(path) as temporary:
        figure.savefig(temporary, dpi=dpi, **({"metadata": {"Date": None}} if path.suffix == ".svg" else {}))


def _save_table(header: Sequence[str], rows: Iterable[Sequence[Any]], path: Path) -> None:
    with (
        written(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def run_name(path: str | Path) -> str:
    """Return the label of a run, a checkpoint or a file in a figure: the name of its folder.

    Example:
        >>> run_name("runs/digits_1/checkpoints/final.ckpt"), run_name("runs/digits/2026-11-24_10-00")
        ('digits_1', 'digits_2026-11-24_10-00')
    """
    path = Path(path)
    if path.suffix == ".ckpt":
        path = path.parent.parent if path.parent.name == "checkpoints" else path.with_suffix("")
    name = path.name or path.resolve().name
    # Runs that were not named are called by their time.
    return f"{path.parent.name}_{name}" if re.match(r"\d{4}-\d\d-\d\d", name) and path.parent.name else name


def run_names(paths: Sequence[str]) -> list[str]:
    """Return different names for different runs: with their parents where the last folders are alike."""
    names = [run_name(path) for path in paths]
    alike = {name for name in names if names.count(name) > 1}
    if not alike:
        return names
    full = [typeable(path) if name in alike else name for path, name in zip(paths, names, strict=True)]
    if len(set(full)) < len(full):
        raise UserError(f"One of {', '.join(paths)} is named twice.")
    return full


def typeable(name: str) -> str:
    """Return a name without the characters that an override cannot hold."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("_")


def several(value: Any, key: str) -> list[str]:
    """Return a value that is one name or a list of names as a list.

    Raises:
        UserError: It is neither, or empty.
    """
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not found or not all(isinstance(item, str) and item for item in found):
        raise UserError(f"`{key}` must be a name or a list of names (a or [a,b]), got {value!r}.")
    return found


def graph_table(graphs: Mapping[str, Any], column: str | None = None) -> tuple[list[str], list[list[Any]]]:
    """Return the nodes of graphs as a table.

    Args:
        graphs: By name.
        column: Title of the column of names; None leaves it out.
    """
    rows = [({column: name} if column else {}) | row for name, graph in graphs.items() for row in graph.rows()]
    return list(rows[0]), [list(row.values()) for row in rows]
