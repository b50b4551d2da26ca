"""Ctrl-C between two training steps."""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException


class StopRequest:
    """Remembers the first Ctrl-C or SIGTERM, so that training can stop between two steps; a second one stops at once.

    An exception raised in the middle of an optimizer step would leave some weights updated and others not.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._previous: dict[int, Any] = {}

    def listen(self, *signums: int) -> None:
        """Take these signals over; outside of the main thread Python does not allow it, and nothing happens."""
        self.signum = 0
        if threading.current_thread() is threading.main_thread():
            for signum in signums:
                self._previous.setdefault(signum, signal.signal(signum, self._receive))

    def ignore(self) -> None:
        """Give the signals back."""
        if threading.current_thread() is threading.main_thread():
            for signum, handler in self._previous.items():
                signal.signal(signum, handler)
            self._previous.clear()

    def agreed(self, device: torch.device) -> bool:
        """Whether any rank was asked to stop; to be called on all of them."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            agreed = torch.tensor(self.signum, device=device)
            dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
            signum = int(agreed)
            self.signum = signum or self.signum  # one that arrives meanwhile counts the next time, on all ranks
            return signum != 0
        return self.signum != 0

    def exception(self) -> BaseException:
        """Return what the signal stands for."""
        return KeyboardInterrupt() if self.signum == signal.SIGINT else SIGTERMException(128 + self.signum)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:
            self.ignore()
            raise KeyboardInterrupt
        self.signum = signum
        if getattr(rank_zero_only, "rank", 0) == 0:
            with suppress(OSError):  # `print` may have been interrupted itself
                os.write(2, b"\nStopping after this step or validation, with a checkpoint. Once more: stop at once.\n")
