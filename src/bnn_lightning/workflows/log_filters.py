"""Messages of libraries that a user can do nothing about."""

import logging
import warnings


class _NoTips(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return "Tip: " not in record.getMessage()


def silence() -> None:
    """Leave out Lightning's advertisements, its use of a class that torch >= 2.11 deprecates, and two pieces of advice.

    (Epochs shorter than `log_every_n_steps` are in order: what matters is logged once an epoch. And what is logged has
    been reduced before: it is equal on all ranks.)
    """
    warnings.filterwarnings("ignore", message=r"The number of training batches .* is smaller than the logging interval")
    warnings.filterwarnings("ignore", message=r".*recommended to use `self\.log\(.*sync_dist=True\)`")
    warnings.filterwarnings("ignore", message=r".*LeafSpec.*", category=FutureWarning)
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    if not any(isinstance(known, _NoTips) for known in logger.filters):
        logger.addFilter(_NoTips())
