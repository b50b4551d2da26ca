"""Write the curves of runs to one CSV file each: a row an epoch, the step's loss left out.

    python tools/collect_curves.py OUT RUN [RUN ...]

Args: the folder to write to, and run folders (those that `bnn train` names at its end). The file is called as the run's
folder is. The test of the finished network, which repeats the last epoch's, is left out.
"""

import csv
import sys
from pathlib import Path

LEFT_OUT = ("step", "epoch", "train/loss_step")


def curves(run: Path) -> list[dict[str, str]]:
    """Return the epochs of a run: metrics by name, `epoch` first, the rows that it logged in joined."""
    files = sorted(run.glob("csv/**/metrics.csv"))
    if not files:
        raise SystemExit(f"{run}: no csv/*/metrics.csv in it; was it trained with logger=csv?")
    epochs: dict[int, dict[str, str]] = {}
    for file in files:
        with file.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                values = {name: value for name, value in row.items() if value and name not in LEFT_OUT}
                if values:
                    epochs.setdefault(int(row["epoch"]), {}).update(values)
    return [{"epoch": str(epoch), **row} for epoch, row in sorted(epochs.items()) if "train/loss" in row]


def main() -> None:
    """Read the command line and write."""
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for run in map(Path, sys.argv[2:]):
        rows = curves(run)
        names = list(dict.fromkeys(name for row in rows for name in row))
        with (out / f"{run.resolve().name}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(f"{run}: {len(rows)} epochs")


if __name__ == "__main__":
    main()
