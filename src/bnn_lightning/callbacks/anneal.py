"""Annealed binarizers follow the training."""

import warnings

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from bnn_lightning.callbacks.progress import FollowProgress
from bnn_lightning.layers.module_utils import annealed


class AnnealProgress(FollowProgress):
    """Tell every annealed binarizer how far the training is.

    With `interval="epoch"` the progress is e / E, set at the start of epoch e = 0 ... E - 1, as in IR-Net and SKD-BNN;
    the last one is (E - 1) / E. With `"step"` it is t / (E n) before optimizer step t, n steps an epoch; the last one
    is 1 - 1 / (E n). So 1 is never reached within the schedule; training past its end goes on at exactly 1, with a
    warning. What is computed depends on the epoch and the step alone, so that a resumed run goes on exactly.

    The quantity itself is logged at the end of every epoch, as it was in the last step: `binary/temperature`,
    `binary/t` (EDE), `binary/power` (ReSTE), `binary/tau` (ReCU); where binarizers of a kind differ, that of the first.

    Args:
        epochs: E, the length of the annealing; it need not be the trainer's.
        interval: "epoch" or "step".

    Raises:
        ValueError: `epochs` is not positive, or an unknown interval.

    Example:
        >>> AnnealProgress(epochs=700).progress(525)
        0.75
    """

    _warned = False

    def progress(self, time: int, per_epoch: int = 1) -> float:
        if time >= self.epochs * per_epoch and not self._warned:
            self._warned = True
            warnings.warn(
                f"The annealing of {self.epochs} epochs is over; it stays at its end. Set its `epochs` to the length "
                "of the training.",
                stacklevel=2,
            )
        return super().progress(time, per_epoch)

    def set_progress(self, pl_module: LightningModule, progress: float) -> None:
        for binarizer in annealed(pl_module):
            binarizer.set_progress(progress)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        quantities: dict[str, Tensor] = {}
        for binarizer in annealed(pl_module):
            for name, quantity in binarizer.named_buffers(recurse=False):
                quantities.setdefault(f"binary/{name}", quantity)
        if quantities:
            pl_module.log_dict(quantities)
