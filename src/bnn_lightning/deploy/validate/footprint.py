"""Load time and memory of a packed file, in a process that does nothing else."""

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bnn_lightning.deploy.frontend.fresh import zeros
from bnn_lightning.deploy.runtime.network import load
from bnn_lightning.utils.hardware import peak_resident


@dataclass(frozen=True)
class Footprint:
    """Load time and memory of a packed file in a fresh process.

    Attributes:
        file: Bytes of the file.
        load_seconds: From the path to a network that is ready, the first time in the process.
        first_seconds: The first image after that.
        before: Bytes that the process has held at most before it loads, with torch imported.
        loaded: The same after loading.
        peak: The same after the first image.
    """

    file: int
    load_seconds: float
    first_seconds: float
    before: int
    loaded: int
    peak: int


def measure_footprint(path: str | Path, *, threads: int = 1) -> Footprint:
    """Load a packed file in a fresh process, and run it on one image.

    Args:
        path: A file that `save` wrote.
        threads: Threads of torch.

    Raises:
        RuntimeError: The process failed; the message ends as its output did.
    """
    command = [sys.executable, "-m", __name__, str(path), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"`{path}` could not be measured: {done.stderr.strip()[-500:]}")
    return Footprint(**json.loads(done.stdout.splitlines()[-1]))


def _measure_here(path: Path) -> Footprint:
    before, start = peak_resident(), time.perf_counter()
    network = load(path)
    ready, loaded = time.perf_counter(), peak_resident()
    with torch.inference_mode():
        network(zeros(1, *network.info.shape))
    done = time.perf_counter()
    return Footprint(path.stat().st_size, ready - start, done - ready, before, loaded, peak_resident())


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    print(json.dumps(asdict(_measure_here(Path(sys.argv[1])))))
