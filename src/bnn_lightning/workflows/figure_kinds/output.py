"""Output files of pictures and their numbers."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig

from bnn_lightning.cli.launch import is_sweep
from bnn_lightning.utils.optional import require
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.out_file import check_out
from bnn_lightning.workflows.out_file import written as written_out

STATIC = ("png", "svg", "pdf")
INTERACTIVE = "html"


@dataclass(frozen=True)
class Place:
    """Output files of one command.

    Attributes:
        folder: Exists.
        stem: What all its files are called by.
        formats: Suffixes of pictures, without the dot.
        dpi: Of PNG.
    """

    folder: Path
    stem: str
    formats: tuple[str, ...]
    dpi: int

    def path(self, suffix: str, part: str = "") -> Path:
        """Return the path of a file: `<folder>/<stem>_<part>.<suffix>`."""
        return self.folder / f"{self.stem}{'_' if part else ''}{part}.{suffix}"

    def wants(self, figure_format: str) -> bool:
        """Whether pictures in a format are asked for."""
        return figure_format in self.formats


def place_of(out: str, name: str, *, formats: Sequence[str] = ("png",), dpi: int = 150) -> Place:
    """Return where to write, after a look at the place: nothing long has begun yet. A folder is made.

    Files of a sweep's jobs end in the number of the job.

    Args:
        out: A folder, or a file with the suffix of a picture, whose stem is then that of all files.
        name: What files in a folder are called by; characters that cannot be typed as an override become `_`.
        formats: Of pictures in a folder.
        dpi: Of PNG.

    Raises:
        UserError: A format that does not exist, or a place that cannot be.
    """
    known = (*STATIC, INTERACTIVE)
    if not formats:
        raise UserError(f"`formats` must name one or more of {', '.join(known)}, got [].")
    if unknown := [name for name in formats if name not in known]:
        raise UserError(f"`formats`: `{unknown[0]}` is none of {', '.join(known)}.")
    if dpi < 1:
        raise UserError(f"`dpi` must be 1 or more, got {dpi}.")
    path = Path(out)
    suffix = path.suffix.removeprefix(".")
    if suffix in known and not path.is_dir():
        stem = path.stem + _of_job()
        check_out(path.with_stem(stem))
        return Place(path.parent, stem, (suffix,), dpi)
    if suffix and not path.is_dir():
        raise UserError(f"`out` must be a folder or end in one of .{', .'.join(known)}, got {out}.")
    if path.is_file():
        raise UserError(f"`out`: {out} is a file without the suffix of a picture.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"`out`: {out} cannot be made: {error.strerror}.") from error
    stem = typeable(name) + _of_job()
    check_out(path / stem)
    return Place(path, stem, tuple(formats), dpi)


def _of_job() -> str:
    """Return what tells the files of a sweep's jobs apart."""
    return f"_{HydraConfig.get().job.num}" if is_sweep() else ""


def save(figures: Mapping[str, Any], place: Place) -> list[Path]:
    """Write figures, and print where.

    Args:
        figures: By part of the file's name, "" for none. Those of matplotlib are written in every static format that is
            asked for, those of plotly as pages that work without a network where HTML is.
        place: Where to.

    Returns:
        The files.
    """
    written = []
    for part, figure in figures.items():
        if hasattr(figure, "write_html"):
            if place.wants(INTERACTIVE):
                path = place.path(INTERACTIVE, part)
                with written_out(path) as temporary:
                    figure.write_html(temporary, include_plotlyjs=True)
                written.append(path)
            continue
        for suffix in STATIC:
            if place.wants(suffix):
                path = place.path(suffix, part)
                _save_static(figure, path, place.dpi)
                written.append(path)
    for path in written:
        print(f"written: {path}", flush=True)
    if not written:
        print(f"no picture: this one is drawn as {', '.join(STATIC)}, see `formats` and `out`", flush=True)
    return written


def _save_static(figure: Any, path: Path, dpi: int) -> None:
    # Imported late, as it is an extra. Text stays text in SVG, and the same picture is the same file.
    matplotlib = require("matplotlib", extra="visualize")
    style = {"svg.fonttype": "none", "svg.hashsalt": "bnn-lightning"}
    with matplotlib.rc_context(style), written_out(path) as temporary:
        figure.savefig(temporary, dpi=dpi, **({"metadata": {"Date": None}} if path.suffix == ".svg" else {}))


def save_table(header: Sequence[str], rows: Iterable[Sequence[Any]], path: Path) -> None:
    """Write a plain table as CSV, and print where.

    Args:
        header: Names of the columns.
        rows: Values; numbers keep all their digits.
        path: Ends in .csv.
    """
    with (
        written_out(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    print(f"written: {path}", flush=True)


def save_arrays(arrays: Mapping[str, Any], path: Path) -> None:
    """Write arrays as a compressed file of NumPy, and print where.

    Args:
        arrays: By name.
        path: Ends in .npz.
    """
    with written_out(path) as temporary:
        np.savez_compressed(temporary, **arrays)
    print(f"written: {path}", flush=True)


def run_name(path: str | Path) -> str:
    """Return what a picture calls a run, a checkpoint or a file by: the run's own folder.

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
