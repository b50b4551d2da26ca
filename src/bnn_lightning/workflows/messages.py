"""Messages of a workflow while it works: log records, which the command line prints."""

import logging

from pytorch_lightning.utilities import rank_zero_only

LOGGER = logging.getLogger("bnn_lightning.workflows")


@rank_zero_only
def say(text: str) -> None:
    """Log a line, once for all ranks."""
    LOGGER.info("%s", text)


@rank_zero_only
def warn(text: str) -> None:
    """Log a warning, once for all ranks; the command line prints it to stderr."""
    LOGGER.warning("%s", text)
