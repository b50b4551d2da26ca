"""Distillers whose teachers take turns follow the training."""

from pytorch_lightning import LightningModule

from bnn_lightning.callbacks.progress import FollowProgress


class DistillProgress(FollowProgress):
    """Tell the distiller how far the training is; past the end it is 1.

    Args:
        epochs: Length of the training that the teachers share.
        interval: "epoch" or "step".

    Raises:
        ValueError: `epochs` is not positive, or an unknown interval.

    Example:
        >>> DistillProgress(epochs=512).progress(256)
        0.5
    """

    def set_progress(self, pl_module: LightningModule, progress: float) -> None:
        pl_module.distiller.set_progress(progress)  # type: ignore[union-attr,operator]
