"""Number of damaged image files in an epoch."""

import torch
from pytorch_lightning import Callback, LightningModule, Trainer


class DamagedImages(Callback):
    """Log `data/damaged` at the end of every epoch: the damaged files that were passed over in it, on all ranks.

    An epoch that was interrupted counts from where it went on. Nothing is logged for sets that have no files, or for
    which a damaged file is an error.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (count := count_passed_over(trainer, "train")) is not None:
            pl_module.log("data/damaged", float(count))


def count_passed_over(trainer: Trainer, split: str) -> int | None:
    """Return the number of damaged files that all ranks passed over since the last call; to be called on all ranks.

    Args:
        trainer: Trainer of the run.
        split: "train", "val" or "test".

    Returns:
        Their number, or None where a damaged file is an error.
    """
    take = getattr(getattr(trainer, "datamodule", None), "take_passed_over", None)
    own = None if take is None else take(split)
    if own is None:
        return None
    count = torch.tensor(own, device=trainer.strategy.root_device)
    return int(trainer.strategy.reduce(count, reduce_op="sum"))
