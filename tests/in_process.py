"""Commands in the process of the tests, which is afterwards as it was: they do without a start of Python."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

# Variables that a run reads from the environment, and that an outer run may have left there.
_DROPPED = ("BNN_DATA", "BNN_RUNS", "BNN_RUN_ID", "HYDRA_FULL_ERROR", "PL_GLOBAL_SEED")


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[None]:
    """Stand in a folder, as a user who has just opened a shell."""
    argv, environment = sys.argv, dict(os.environ)
    handlers, level = list(logging.root.handlers), logging.root.level
    for name in _DROPPED:
        os.environ.pop(name, None)
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        sys.argv = argv
        os.environ.clear()
        os.environ.update(environment)
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
        HydraConfig.instance().cfg = None
