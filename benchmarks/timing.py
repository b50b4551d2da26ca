"""Interleaved timing and peak memory, shared by the benchmarks."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch


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
