"""Number of optimizer steps in an epoch."""

import math
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.trainer.states import RunningStage


def steps_per_epoch(trainer: Trainer) -> int:
    """Return the number of optimizer steps in an epoch; accumulated batches are one step, a remainder is one more.

    `trainer.estimated_stepping_batches` is not asked: it sets up the loader before the loops are restored, and a
    loader that is resumed in mid-epoch then starts the epoch again (Lightning 2.6). A plain `DataLoader` is counted as
    Lightning shards it between ranks.

    Raises:
        ValueError: The training loader has no length.
    """
    loader: Any = trainer._data_connector._prepare_dataloader(
        trainer.fit_loop._data_source.dataloader(), shuffle=False, mode=RunningStage.TRAINING
    )
    try:
        num_batches = len(loader)
    except TypeError as error:
        raise ValueError("A learning-rate scheduler needs a training loader that has a length.") from error
    return math.ceil(limited(num_batches, trainer.limit_train_batches) / trainer.accumulate_grad_batches)


def limited(num_batches: int, limit: int | float | None) -> int:
    """Return the batches of an epoch under `limit_train_batches`, at least 1.

    Example:
        >>> limited(10, 0.25), limited(10, 4), limited(10, 1.0), limited(10, None)
        (2, 4, 10, 10)
    """
    if limit is None:
        return num_batches
    return max(1, min(num_batches, limit if isinstance(limit, int) else int(num_batches * limit)))
