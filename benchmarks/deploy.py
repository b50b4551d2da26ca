"""Packed networks against what they are to beat: one table of ratios, with the aims beside.

    python -m benchmarks.deploy --out deploy.json --only layers birealnet18

Every case is a `bnn benchmark` in a process of its own, whose backends take turns; a ratio is a baseline's median over
the packed network's. One that fails is named, and the others go on.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

IMAGENET = "data=imagenet"
# By case, the words of `bnn benchmark`, and what is asked of it in the environment.
CASES: dict[str, tuple[str, ...]] = {
    "layers": ("layers=true", "threads=[1]"),
    "birealnet18": (
        *("model=birealnet18", IMAGENET),
        "baselines=[packed_u8,torch_simulated,onnxruntime_float,onnxruntime_int8,openvino_float,openvino_int8,"
        "mobilenet_v2_int8]",
    ),
    "bnext_tiny": (
        *("model=bnext_tiny", IMAGENET, "threads=[1]"),
        "baselines=[torch_simulated,onnxruntime_simulated,onnxruntime_float,onnxruntime_int8,mobilenet_v2_int8]",
    ),
    "reactnet_a": (
        *("model=reactnet_a", IMAGENET, "threads=[1]"),
        "baselines=[torch_simulated,onnxruntime_simulated,onnxruntime_float,onnxruntime_int8]",
    ),
    "resnet20": (
        *("model=resnet20", "data=cifar10", "threads=[1]", "batch=[1,128]"),
        "baselines=[torch_simulated,onnxruntime_float,onnxruntime_int8]",
    ),
    "fallback": ("model=birealnet18", IMAGENET, "threads=[1]", "baselines=[torch_simulated]", "repeats=5"),
}
ENVIRONMENT = {"fallback": {"BNN_KERNEL": "torch"}}


class Row(NamedTuple):
    """A line of the table: what, the ratio that was found, and the one that is aimed at."""

    what: str
    ratio: float
    aim: float | None = None


class Found:
    """Findings of a case: the JSON of `bnn benchmark`."""

    def __init__(self, report: dict[str, Any]) -> None:
        self.entries = report["entries"]

    def median(self, name: str, *, threads: int = 1, batch: int = 1, layer: str = "", clock: str = "") -> float | None:
        """Return the median seconds of a backend, None if it was not measured."""
        for entry in self.entries:
            if (entry["name"], entry["threads"], entry["batch"], entry["layer"]) == (name, threads, batch, layer):
                return statistics.median(turn[clock or entry["clock"]] for turn in entry["turns"])
        return None

    def rows(self, what: str, aims: dict[str, float | None], *, ours: str = "packed", **where: Any) -> Iterator[Row]:
        """Return a line a baseline, with its aim, where both were measured."""
        for baseline, aim in aims.items():
            mine, theirs = self.median(ours, **where), self.median(baseline, **where)
            if mine and theirs:
                yield Row(f"{what} / {baseline}", theirs / mine, aim)


def rows_of(case: str, found: Found) -> Iterator[Row]:
    """Return the lines of a case."""
    if case == "layers":
        for layer in dict.fromkeys(entry["layer"] for entry in found.entries):
            aims: dict[str, float | None] = {"onnxruntime_float": 15.0, "onnxruntime_int8": 4.0}
            yield from found.rows(f"3x3 {layer}", aims, layer=layer)
    elif case == "birealnet18":
        others = {"openvino_float": None, "openvino_int8": None, "torch_simulated": None, "mobilenet_v2_int8": None}
        yield from found.rows("fp32 stem", {"onnxruntime_float": 7.0, "onnxruntime_int8": 2.3, **others})
        bytewise: dict[str, float | None] = {"onnxruntime_float": 10.0, "onnxruntime_int8": 3.3}
        yield from found.rows("u8 stem", bytewise, ours="packed_u8")
        yield from _two_threads(found)
    elif case == "bnext_tiny":
        others = {"onnxruntime_simulated": None, "onnxruntime_int8": None, "torch_simulated": None}
        yield from found.rows("packed", {"onnxruntime_float": 20.0, "mobilenet_v2_int8": 1.0, **others})
    elif case == "reactnet_a":
        others = {"onnxruntime_simulated": None, "onnxruntime_int8": None, "torch_simulated": None}
        yield from found.rows("packed", {"onnxruntime_float": 15.0, **others})
    elif case == "resnet20":
        for batch in (1, 128):
            aims = {"onnxruntime_float": 5.0, "onnxruntime_int8": 2.0, "torch_simulated": None}
            yield from found.rows(f"batch {batch}", aims, batch=batch)
    elif case == "fallback":
        yield from found.rows("in torch, without kernels", {"torch_simulated": 1.0})


def _two_threads(found: Found) -> Iterator[Row]:
    one, two = (found.median("packed", threads=threads, clock="wall") for threads in (1, 2))
    if one and two:
        yield Row("one thread / two threads, by the clock", one / two, 1.8)


def run(case: str, repeats: int, limit: int, folder: Path) -> dict[str, Any] | str:
    """Run a case in a process of its own; return what it found, or why it failed."""
    out = folder / f"{case}.json"
    words = [*CASES[case], f"out={out}"]
    if not any(word.startswith("repeats=") for word in words):
        words.append(f"repeats={repeats}")
    command = [sys.executable, "-m", "bnn_lightning.cli.main", "benchmark", *words]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **ENVIRONMENT.get(case, {})},
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it took more than {limit} s"
    if done.returncode or not out.is_file():
        return (done.stderr.strip().splitlines() or ["no message"])[0]
    print(done.stdout, flush=True)
    report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return report


def table(rows: dict[str, list[Row]], failed: dict[str, str]) -> str:
    """Format all lines: a baseline's time over the packed network's, and the aim."""
    width = max((len(row.what) for found in rows.values() for row in found), default=0)
    lines = [f"{'case':<12} {'packed / baseline':<{width}}    ratio    aim"]
    for case, found in rows.items():
        for row in found:
            aim = "" if row.aim is None else f"  >= {row.aim:4.1f}  {'met' if row.ratio >= row.aim else 'MISSED'}"
            lines.append(f"{case:<12} {row.what:<{width}} {row.ratio:8.2f}{aim}")
    return "\n".join([*lines, *(f"{case:<12} failed: {reason}" for case, reason in failed.items())])


def main() -> None:
    """Run the cases, print one table, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--limit", type=int, default=240, help="seconds of a case")
    parser.add_argument("--out", type=Path, default=None, help="a .json file with every repeat")
    args = parser.parse_args()
    start = time.perf_counter()
    reports: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in args.only:
            report = run(case, args.repeats, args.limit, Path(folder))
            if isinstance(report, str):
                failed[case] = report
                print(f"{case} failed: {report}\n", flush=True)
            else:
                reports[case] = report
    rows = {case: list(rows_of(case, Found(report))) for case, report in reports.items()}
    print(table(rows, failed))
    print(f"\n{time.perf_counter() - start:.0f} s")
    if args.out is not None:
        plain = {case: [row._asdict() for row in found] for case, found in rows.items()}
        args.out.write_text(json.dumps({"rows": plain, "failed": failed, "reports": reports}, indent=1) + "\n")


if __name__ == "__main__":
    main()
