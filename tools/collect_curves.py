"""Write the curves of runs to one CSV file each: a row an epoch, the step's loss left out.

    python tools/collect_curves.py OUT RUN [RUN ...]

Args: the folder to write to, and run folders (those that `bnn train` names at its end). The file is called as the run's
folder is. The test of the finished network, which repeats the last epoch's, is left out.
"""

import csv
import math
import sys
from pathlib import Path

from bnn_lightning.utils.curves import read_curves


def curves(run: Path) -> tuple[list[str], list[list[str]]]:
    """Return the names and the rows of a run's epochs."""
    try:
        columns = read_curves(run)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    rows = [
        ["" if math.isnan(value) else repr(value) for value in row[1:]] for row in zip(*columns.values(), strict=True)
    ]
    return list(columns), [[f"{epoch:.0f}", *row] for epoch, row in zip(columns["epoch"], rows, strict=True)]


def main() -> None:
    """Read the command line and write."""
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for run in map(Path, sys.argv[2:]):
        names, rows = curves(run)
        with (out / f"{run.resolve().name}.csv").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows([names, *rows])
        print(f"{run}: {len(rows)} epochs")


if __name__ == "__main__":
    main()
