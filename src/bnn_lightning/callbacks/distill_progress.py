"""Distillers that change in the course of training follow it."""

from pytorch_lightning import LightningModule

from bnn_lightning.callbacks.anneal import AnnealProgress


class DistillProgress(AnnealProgress):
    """Tell the distiller how far the training is, as `AnnealProgress` tells the binarizers; past the end it is 1.

    Args:
        epochs: Length of the training that the distiller's phases share.
        interval: "epoch" or "step".

    Raises:
        ValueError: `epochs` is not positive, or an unknown interval.

    Example:
        >>> DistillProgress(epochs=512).progress(256)
        0.5
    """

    def progress(self, time: int, per_epoch: int = 1) -> float:
        return min(1.0, time / (self.epochs * per_epoch))

    @staticmethod
    def _set(pl_module: LightningModule, progress: float) -> None:
        pl_module.distiller.set_progress(progress)  # type: ignore[union-attr,operator]
