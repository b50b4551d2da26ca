"""Contexts that wait for the calls of a network: one policy, with torch and without.

This file is also `bnn_runtime.contexts` of the distribution bnn-runtime.
"""

import threading
from typing import Generic, Protocol, TypeVar

MOST_IDLE = 4  # contexts that a network keeps for calls at the same time
PATIENCE = 8  # calls of a network that a context waits for one that needs it


class Context(Protocol):
    """Memory of one call at a time.

    Attributes:
        most: Most images of a call.
        needed: Number of the last call that filled a quarter of it or more; 0 before the first call.
    """

    most: int
    needed: int

    @property
    def plan(self) -> object:
        """Plan that it has memory for."""


_C = TypeVar("_C", bound=Context)


class Contexts(Generic[_C]):
    """Idle contexts of a network.

    A call takes the smallest one with room for its images. Where none has room, the largest one makes way for the new
    one, so that there are no more contexts of a plan than it had calls at the same time. A context is released when the
    last `PATIENCE` calls of the network did not need it: they took others, or filled less than a quarter of it. Calls
    of one size, and calls that alternate between sizes, allocate nothing.

    Example:
        >>> from types import SimpleNamespace
        >>> contexts = Contexts()
        >>> contexts.give(SimpleNamespace(most=100, needed=0, plan=None), images=100)
        >>> contexts.take(7).most, contexts.idle
        (100, [])
    """

    def __init__(self) -> None:
        self._lock, self._calls = threading.Lock(), 0
        self.idle: list[_C] = []

    def take(self, images: int, plan: object = None) -> _C | None:
        """Return a context with room for so many images; None: open a new one, and give it once it is idle.

        Args:
            images: Images of the call.
            plan: Plan of the call.
        """
        with self._lock:
            of_plan = [context for context in reversed(self.idle) if context.plan is plan]  # the last one is in caches
            with_room = [context for context in of_plan if context.most >= images]
            if not of_plan:
                return None
            context = min(with_room, key=_room) if with_room else max(of_plan, key=_room)
            self.idle.remove(context)
        return context if with_room else None

    def give(self, context: _C, images: int) -> None:
        """Let a context wait for the next call.

        Args:
            context: Context that is idle from now on.
            images: Images of the call that it served.
        """
        with self._lock:
            self._calls += 1
            if 4 * images >= context.most:
                context.needed = self._calls
            self.idle.append(context)
            if len(self.idle) > 1 or context.needed != self._calls:
                self._release()

    def _release(self) -> None:
        """Release the contexts that were not needed for long, and the smallest one of too many."""
        self.idle = [context for context in self.idle if self._calls - context.needed < PATIENCE]
        if len(self.idle) > MOST_IDLE:
            self.idle.remove(min(self.idle, key=_room))

    def clear(self) -> None:
        """Release the contexts that are idle."""
        with self._lock:
            self.idle = []


def _room(context: Context) -> int:
    return context.most
