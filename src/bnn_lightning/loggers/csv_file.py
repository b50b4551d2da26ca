"""The curves of a run in one CSV file, from the first epoch to the last."""

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.csv_logs import _ExperimentWriter
from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning import loggers
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from bnn_lightning.utils.files import replacing

Row = dict[str, str]


class CSVLogger(loggers.CSVLogger):
    """Lightning's `CSVLogger`, whose file a resumed run continues.

    Args:
        save_dir: The run's folder.
        name: Folder in it.
        version: Number of the folder `version_<n>` in that one.
        resume_step: Optimizer steps that the resumed run has done. Rows of later steps, which it makes again, are taken
            out of the file. None starts a new file.
        flush_logs_every_n_steps: Steps between two writes.
    """

    def __init__(
        self,
        save_dir: str | Path,
        *,
        name: str = "csv",
        version: int = 0,
        resume_step: int | None = None,
        flush_logs_every_n_steps: int = 100,
    ) -> None:
        super().__init__(save_dir, name, version, flush_logs_every_n_steps=flush_logs_every_n_steps)
        self.resume_step = resume_step

    @property
    @rank_zero_experiment
    def experiment(self) -> _ExperimentWriter:
        if self._experiment is None:
            os.makedirs(self.root_dir, exist_ok=True)
            new = self.resume_step is None
            self._experiment = (
                ExperimentWriter(self.log_dir) if new else _Continued(self.log_dir, self.resume_step or 0)
            )
        return self._experiment

    def holds(self, step: int, names: Iterable[str]) -> bool:
        """Whether the file that is continued has values of all these metrics at a step."""
        writer = self.experiment
        return isinstance(writer, _Continued) and set(names) <= writer.names_at.get(step, set())


class _Continued(ExperimentWriter):
    """Lightning's writer, which would delete the file that it finds, and rewrites it in place for a new column."""

    def __init__(self, log_dir: str, steps: int) -> None:
        super().__init__(log_dir)
        self.names_at: dict[int, set[str]] = {}  # of the last step
        file = Path(self.metrics_file_path)
        if not file.is_file():
            return
        self.metrics_keys, rows = read_rows(file)
        kept = [row for row in rows if row["step"] and int(row["step"]) < steps]
        for row in kept:
            if int(row["step"]) == steps - 1:
                self.names_at.setdefault(steps - 1, set()).update(name for name, value in row.items() if value)
        write_rows(file, self.metrics_keys, kept)

    def _check_log_dir_exists(self) -> None:
        """Delete nothing."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        file = Path(self.metrics_file_path)
        write_rows(file, fieldnames, read_rows(file)[1])


def read_rows(file: Path) -> tuple[list[str], list[Row]]:
    """Return the columns and rows of a CSV file, without a last line that a kill cut off."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    reader = csv.DictReader(lines)
    return list(reader.fieldnames or ()), [{name: value or "" for name, value in row.items()} for row in reader]


def write_rows(file: Path, columns: list[str], rows: Iterable[dict[str, Any]]) -> None:
    """Replace a CSV file in one step."""
    with replacing(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
