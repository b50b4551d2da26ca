"""Places in working memory for values that live at different times."""

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass

ALIGN = 64  # bytes: a line of the cache


@dataclass
class Buffer:
    """A value's place.

    Attributes:
        size: Bytes.
        begin: First step at which it is needed.
        end: Last step at which it is needed.
        offset: Offset of its first byte.
    """

    size: int
    begin: int
    end: int
    offset: int = 0


def lay_out(buffers: Iterable[Buffer]) -> int:
    """Give each buffer a place that it shares with none that lives at the same time; return the bytes of all."""
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: -b.size):
        buffer.offset = 0
        for other in placed:
            apart = other.end < buffer.begin or buffer.end < other.begin
            if not apart and other.offset < buffer.offset + buffer.size:
                buffer.offset = max(buffer.offset, -(-(other.offset + other.size) // 4) * 4)
        insort(placed, buffer, key=lambda b: b.offset)
    return max((buffer.offset + buffer.size for buffer in placed), default=0)


def aligned(size: int) -> int:
    """Return a number of bytes that is filled up to a whole line of the cache.

    Example:
        >>> aligned(65)
        128
    """
    return -(-size // ALIGN) * ALIGN
