"""Counts of the inputs of a long check, printed while it runs."""

import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping

INTERVAL = 10.0  # seconds between two lines


class Progress:
    """Count inputs by their results, and print the counts to standard error every ten seconds.

    Args:
        inputs: Number of inputs of the whole check.

    Example:
        >>> progress = Progress(3)
        >>> progress.add({"refused": 2})
        >>> print(progress)  # doctest: +ELLIPSIS
        2 of 3 inputs, 0 s: 2 refused
    """

    def __init__(self, inputs: int) -> None:
        self.inputs, self.counts = inputs, Counter[str]()
        self._begin = self._printed = time.monotonic()

    def add(self, counts: Mapping[str, int]) -> None:
        """Add inputs that were read, by result."""
        self.counts.update(counts)
        now = time.monotonic()
        if now - self._printed >= INTERVAL:
            self._printed = now
            print(self, file=sys.stderr, flush=True)

    def __str__(self) -> str:
        results = ", ".join(f"{count} {result}" for result, count in sorted(self.counts.items()))
        seconds = time.monotonic() - self._begin
        return f"{self.counts.total()} of {self.inputs} inputs, {seconds:.0f} s: {results or 'none'}"


def interrupt_on_signals() -> None:
    """Raise KeyboardInterrupt on SIGINT, which programs in the background ignore otherwise, and on SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
