"""Time and memory from a packed file to its first answer: in a process with torch, and in one of its own without.

    python -m benchmarks.opening --repeats 5

Each figure is the median over fresh processes. Importing is not opening: it is measured apart. Aims are those of Zen 5.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.untrained import SIZES, write

NETWORKS = ("resnet20", "bnext_tiny")
# Milliseconds to open, and more for the first image than for a later one, for a new number of images; MiB in all.
AIMS = {
    ("resnet20", "torch"): {"open": 10.0, "first": 5.0, "number": 0.0},
    ("resnet20", "alone"): {"open": 3.0, "first": 5.0, "number": 0.0, "memory": 40.0},
    ("bnext_tiny", "torch"): {"open": 25.0, "first": 20.0, "number": 0.0},
    ("bnext_tiny", "alone"): {"open": 15.0, "first": 20.0, "number": 0.0, "memory": 70.0},
}
_IMPORTS = {
    "torch": "import numpy as np, torch; from bnn_lightning.deploy import load; of = torch.from_numpy; "
    "torch.set_num_threads(1)",
    "alone": "import numpy as np; from bnn_runtime import load; of = np.asarray",
}
# A process of its own: it prints milliseconds and MiB as JSON.
_MEASURE = """
import json, statistics, time
def ms(call):
    start = time.perf_counter(); result = call(); return 1e3 * (time.perf_counter() - start), result
imported, _ = ms(lambda: exec({imports!r}, globals()))
opened, network = ms(lambda: load({path!r}))
one, three = (of(np.random.default_rng(0).random((n, 3, {size}, {size}), np.float32)) for n in (1, 3))
first, _ = ms(lambda: network(one))
memory = int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) / 1024  # at most, of this process
later = statistics.median(ms(lambda: network(one))[0] for _ in range(9))
other, _ = ms(lambda: network(three))
again = statistics.median(ms(lambda: network(three))[0] for _ in range(5))
figures = dict(imports=imported, open=opened, first=first - later, number=other - again, later=later, memory=memory)
print(json.dumps(figures))
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="processes of each kind")
    repeats = parser.parse_args().repeats
    print("network     process  import ms  open ms (aim)  first + (aim)  number + (aim)  later ms  MiB (aim)")
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS:
            path, size = write(name, Path(folder)), SIZES[name]
            for process in ("torch", "alone"):
                print(_row(name, process, measure(path, size, process, repeats)), flush=True)


def measure(path: Path, size: int, process: str, repeats: int) -> dict[str, float]:
    """Return the median of every figure over fresh processes."""
    script = _MEASURE.format(imports=_IMPORTS[process], path=str(path), size=size)
    found = [
        json.loads(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)
        for _ in range(repeats)
    ]
    return {key: statistics.median(item[key] for item in found) for key in found[0]}


def _row(name: str, process: str, found: dict[str, float]) -> str:
    def cell(key: str, width: int) -> str:
        aim = AIMS[name, process].get(key)
        return f"{found[key]:.1f}{'' if aim is None else f' ({aim:g})'}".rjust(width)

    return (
        f"{name:<12}{process:<7}{found['imports']:10.0f} {cell('open', 14)} {cell('first', 14)} {cell('number', 15)}"
        f"{found['later']:10.2f} {cell('memory', 10)}"
    )


if __name__ == "__main__":
    main()
