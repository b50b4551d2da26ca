"""Metrics that a run logged, one value an epoch."""

import csv
import math
import re
from pathlib import Path

Curves = dict[str, list[float]]

# Neither is the measurement of an epoch: where a row stands, and the loss of single steps.
_LEFT_OUT = ("step", "epoch", "train/loss_step")


def read_curves(run: str | Path) -> Curves:
    r"""Read the logged metrics of a run, the rows of an epoch joined.

    Args:
        run: A run's folder (its `csv/version_<n>/metrics.csv`, resumed ones over earlier ones), one such file, or a CSV
            file with a row an epoch. Rows of single steps, and the test of the finished network, which belongs to no
            epoch, are left out.

    Returns:
        Columns of equal length: `epoch`, and the metrics by name, NaN in epochs that did not log them.

    Raises:
        ValueError: There is no such file, no `epoch` in it, or something that is no number.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "metrics.csv")
        ...     _ = file.write_text("epoch,train/loss,val/acc\n0,,0.5\n0,0.7,\n1,0.4,\n")
        ...     read_curves(file)
        {'epoch': [0.0, 1.0], 'val/acc': [0.5, nan], 'train/loss': [0.7, 0.4]}
    """
    epochs: dict[int, dict[str, float]] = {}
    for file in _files(Path(run)):
        for number, row in _rows(file):
            epochs.setdefault(number, {}).update(row)
    kept = {number: row for number, row in sorted(epochs.items()) if "train/loss" in row}
    names = list(dict.fromkeys(name for row in kept.values() for name in row))
    columns = {name: [row.get(name, math.nan) for row in kept.values()] for name in names}
    return {"epoch": [float(number) for number in kept], **columns}


def read_last(run: str | Path) -> dict[str, float]:
    """Read the last value of every metric that a run logged, the test of the finished network among them.

    Args:
        run: As for `read_curves`.

    Raises:
        ValueError: As `read_curves` does.
    """
    last: dict[str, float] = {}
    for file in _files(Path(run)):
        for _, row in _rows(file):
            last.update(row)
    return last


def _files(run: Path) -> list[Path]:
    if run.is_file():
        return [run]
    files = sorted(run.glob("csv/**/metrics.csv"), key=_version)
    if not files:
        raise ValueError(f"{run}: no csv/*/metrics.csv in it; was it trained with logger=csv?")
    return files


def _version(file: Path) -> list[int | str]:
    # version_10 comes after version_9.
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.as_posix())]


def _rows(file: Path) -> list[tuple[int, dict[str, float]]]:
    with file.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        if "epoch" not in (reader.fieldnames or ()):
            raise ValueError(f"`{file}` has no column `epoch`: it is not the log of a run.")
        rows = []
        for row in reader:
            if row["epoch"] in (None, ""):
                continue  # written half when the run was killed
            try:
                logged = {name: float(value) for name, value in row.items() if value and name not in _LEFT_OUT}
                rows.append((int(row["epoch"]), logged))
            except (ValueError, TypeError) as error:
                raise ValueError(f"`{file}`, line {reader.line_num}: {error}.") from error
    return rows
