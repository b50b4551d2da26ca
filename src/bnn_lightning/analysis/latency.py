"""Latency of functions: in turns, by the clock and by the processor; and what a measurement was made on."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Turn:
    """Seconds that one call took, in the mean over the calls of a turn.

    Attributes:
        wall: By the clock.
        cpu: Of the processor, over all threads of the process.
    """

    wall: float
    cpu: float


def time_in_turns(
    steps: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warmup: int = 2,
    least: float = 0.0,
    settle: float = 0.0,
    finish: Callable[[], object] | None = None,
) -> dict[str, list[Turn]]:
    """Time several functions in turns, so that a slow moment of the machine meets all of them.

    Args:
        steps: What to time, by name.
        repeats: Turns that count.
        warmup: Turns before, which do not count.
        least: Seconds that a turn should take: short functions are called several times.
        settle: Begin every turn with a pause of so many seconds, in which threads of the others fall asleep, and a call
            that does not count, which brings its own data into the caches.
        finish: Called after each function, such as `torch.cuda.synchronize`.

    Returns:
        The turns, by name.

    Example:
        >>> turns = time_in_turns({"sum": lambda: sum(range(100))}, repeats=3)
        >>> len(turns["sum"]), turns["sum"][0].wall > 0
        (3, True)
    """
    turns: dict[str, list[Turn]] = {name: [] for name in steps}
    calls, shortest = dict.fromkeys(steps, 1), dict.fromkeys(steps, float("inf"))
    for number in range(warmup + repeats):
        for name, step in steps.items():
            if settle:
                time.sleep(settle)
                step()
            turn = _turn(step, calls[name], finish)
            if number >= warmup:
                turns[name].append(turn)
            else:
                shortest[name] = max(min(shortest[name], turn.wall), 1e-6)
                calls[name] = max(1, round(least / shortest[name]))
    return turns


def _turn(step: Callable[[], object], calls: int, finish: Callable[[], object] | None) -> Turn:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        step()
        if finish is not None:
            finish()
    return Turn(wall=(time.perf_counter() - wall) / calls, cpu=(time.process_time() - cpu) / calls)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the first quartile, the median and the third quartile.

    Example:
        >>> quartiles([5.0, 1.0, 2.0, 4.0, 3.0])
        (2.0, 3.0, 4.0)
    """
    if len(values) < 2:
        return (values[0], values[0], values[0])
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, median, third


def processor() -> str:
    """Return the name of the processor, or of the GPU that torch sees."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def num_cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """Describe in a line what a figure was measured on."""
    return f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def peak_resident() -> int:
    """Return the most bytes that this process has held."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not `ru_maxrss`: on Linux a process begins with that of the one that started it.
        return 1024 * int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])
    import resource  # Windows has none

    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib if sys.platform == "darwin" else 1024 * kib
