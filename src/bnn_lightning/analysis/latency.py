"""Latency of functions, timed in turns, by the clock and by the processor."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds that one call took, in the mean over the calls of a turn.

    Attributes:
        wall: By the clock.
        cpu: Time of the processor, over all threads of the process.
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
) -> dict[str, list[Timing]]:
    """Time several functions in turns, so that a slow moment of the machine meets all of them.

    Args:
        steps: Functions to time, by name.
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
    turns: dict[str, list[Timing]] = {name: [] for name in steps}
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


def _turn(step: Callable[[], object], calls: int, finish: Callable[[], object] | None) -> Timing:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        step()
        if finish is not None:
            finish()
    return Timing(wall=(time.perf_counter() - wall) / calls, cpu=(time.process_time() - cpu) / calls)


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
