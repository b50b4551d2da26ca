"""A packed network as `pack` returns it against its file as `load` returns it, and as `bnn-runtime` runs it, in turns.

    python -m benchmarks.packed --repeats 15

All three run the same plan: what they differ in is what Python does around it.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.untrained import SIZES, build, write
from bnn_lightning.analysis.latency import time_in_turns
from bnn_lightning.deploy import load, pack
from bnn_lightning.deploy.runtime import native

_LEAST, _SETTLE = 0.05, 0.002  # seconds of a turn, and of the pause before


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(SIZES), default=["resnet20", "birealnet18"])
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'ms of a call':<14}{'pack':>9}{'load':>9}{'alone':>9}{'pack / load':>13}  (aim 0.9 to 1.1)")
    for name in args.models:
        pack_ms, load_ms, alone_ms = milliseconds(name, args.repeats)
        print(f"{name:<14}{pack_ms:>9.4f}{load_ms:>9.4f}{alone_ms:>9.4f}{pack_ms / load_ms:>13.3f}", flush=True)


@torch.no_grad()
def milliseconds(name: str, repeats: int) -> tuple[float, float, float]:
    """Return the median milliseconds of processor time of an image: packed, loaded, without torch."""
    images = torch.rand(1, 3, SIZES[name], SIZES[name])
    with tempfile.TemporaryDirectory() as folder:
        path = write(name, Path(folder))
        packed, loaded, alone, array = pack(build(name)), load(path), native.load(path), images.numpy()
        steps = {"pack": lambda: packed(images), "load": lambda: loaded(images), "alone": lambda: alone(array)}
        turns = time_in_turns(steps, repeats=repeats, least=_LEAST, settle=_SETTLE)
    pack_ms, load_ms, alone_ms = (1e3 * statistics.median(turn.cpu for turn in turns[name]) for name in steps)
    return pack_ms, load_ms, alone_ms


if __name__ == "__main__":
    main()
