"""Messages of libraries: which are left out, and which go to the logging of the caller."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

# Loggers that say which devices there are, as every `Trainer` does, and Lightning's advertisements.
_LOGGERS = ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda")
_DEVICES = ("GPU available: ", "TPU available: ", "HPU available: ", "LOCAL_RANK: ")


class _NoAnnouncements(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return "Tip: " not in message and not message.startswith(_DEVICES)


@contextmanager
def silence(*, infos: bool = False) -> Iterator[None]:
    """Leave out Lightning's advertisements and devices, a deprecation that torch >= 2.11 announces, and some advice.

    (A training says itself on which device it computes. Epochs shorter than `log_every_n_steps` are in order: what
    matters is logged once an epoch. What is logged has been reduced before: it is equal on all ranks. A data module of
    the user's own may have no held-out images.)

    Args:
        infos: Whether Lightning prints its other records of level INFO where nothing has configured logging. (Where the
            command line or a program has, their handlers show them.)
    """
    announcements = _NoAnnouncements()
    with warnings.catch_warnings(), ExitStack() as restored:
        warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging")
        warnings.filterwarnings("ignore", message=r".*recommended to use `self\.log\(.*sync_dist=True\)`")
        warnings.filterwarnings("ignore", message=r".*LeafSpec.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message="You defined a `validation_step` but have no `val_dataloader`")
        # Averages of sharded networks are refused (`checks.check_sharding`).
        warnings.filterwarnings("ignore", message="You're using the WeightAveraging callback with a model that over")
        for logger in map(logging.getLogger, _LOGGERS):
            logger.addFilter(announcements)
            restored.callback(logger.removeFilter, announcements)
        for logger in map(logging.getLogger, ("pytorch_lightning", "lightning_fabric")):
            if not logger.propagate and logger.handlers:  # a handler that Lightning adds where there is none
                restored.callback(logger.handlers[0].setLevel, logger.handlers[0].level)
                logger.handlers[0].setLevel(logging.INFO if infos else logging.WARNING)
        yield
