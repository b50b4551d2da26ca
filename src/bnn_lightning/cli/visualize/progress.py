"""Progress of a long computation, on one line of a terminal, or now and then in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def progress(items: Iterable[Item], *, label: str, total: int, done: int = 0) -> Iterator[Item]:
    """Yield items, and say on stderr how many of all there are, and how long the rest will take.

    Args:
        items: Those that are still to be done.
        label: What is counted.
        total: Of all.
        done: Before the first item.
    """
    started, said, before = time.monotonic(), float("-inf"), done
    in_place = sys.stderr.isatty()
    pause = 0.2 if in_place else 60.0
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - said < pause and done < total:
            continue
        said = now
        each = (now - started) / (done - before)
        line = f"{label}: {done} of {total}, {each:.2f} s each, {clock(each * (total - done))} left"
        end = "\n" if not in_place or done == total else ""
        print(f"\r{line}\x1b[K" if in_place else line, end=end, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Return a duration as people write it.

    Example:
        >>> clock(59), clock(3661)
        ('0:59', '1:01:01')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
