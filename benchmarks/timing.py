"""Interleaved timing and peak memory, shared by the benchmarks."""

import argparse
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

FLAGS = ("compile", "bf16", "channels-last", "no-memory")


def parse(
    description: str | None, models: list[str], given: list[str] | None = None, *, unused: tuple[str, ...] = ()
) -> argparse.Namespace:
    """Read the command line that the benchmarks of training share; `make bench-train` gives all of them the same.

    Args:
        description: Text of `--help`.
        models: The networks, where none are given.
        given: Arguments; None takes those of the process.
        unused: Flags that this benchmark has no use for: accepted, and said to be without effect.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=models)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for flag in FLAGS:
        parser.add_argument(f"--{flag}", action="store_true", help="no effect here" if flag in unused else None)
    args = parser.parse_args(given)
    for flag in unused:
        if getattr(args, flag.replace("-", "_")):
            print(f"--{flag} has no effect in this benchmark", file=sys.stderr)
    args.given = sys.argv[1:] if given is None else given
    torch.set_num_threads(args.threads)
    return args


def machine() -> str:
    """Describe what a figure was measured on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        device = device if torch.cuda.is_available() or not names else names[0]
    except OSError:
        pass
    return f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def interleave(
    steps: Mapping[str, Callable[[], object]], *, repeats: int, warmup: int = 2, synchronise: bool = False
) -> dict[str, list[float]]:
    """Time several functions in turns, so that a slow moment of the machine meets all of them.

    Args:
        steps: What to time, by name.
        repeats: Rounds that count.
        warmup: Rounds before that do not.
        synchronise: Wait for the GPU after each.

    Returns:
        Seconds of each round, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(warmup + repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if synchronise:
                torch.cuda.synchronize()
            if number >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(seconds: list[float]) -> str:
    """Format the median and the least of some seconds in milliseconds."""
    return f"{statistics.median(seconds) * 1e3:8.1f} ms (least {min(seconds) * 1e3:.1f})"


def peak_resident() -> int:
    """Return the most bytes that this process has held."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not `ru_maxrss`: on Linux a process begins with that of the one that started it.
        return 1024 * int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib if sys.platform == "darwin" else 1024 * kib
