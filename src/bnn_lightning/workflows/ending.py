"""The end of a training: after a kill, and by a loss that is not finite."""

from pathlib import Path

from pytorch_lightning import Trainer
from pytorch_lightning.loops.fit_loop import _FitLoop

from bnn_lightning.callbacks.nonfinite import NonFiniteLossError


def duration(seconds: float) -> str:
    """Return a time as people say it.

    Example:
        >>> duration(58.4), duration(3725)
        ('58 s', '1 h 02 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class _EndOnly(_FitLoop):
    """Lightning's loop, which leaves out the end of a training, too, when no epoch is left."""

    @property
    def skip(self) -> bool:
        return not self.done


def end_only(trainer: Trainer) -> None:
    """Let a trainer do what follows the last epoch (averages, batch statistics, `final.ckpt`), and no epoch."""
    trainer.fit_loop.__class__ = _EndOnly


def explain_nonfinite(error: NonFiniteLossError, trainer: Trainer) -> str:
    """Return a message for the user: the step, the last good checkpoint, and the keys to change."""
    last = Path(trainer.default_root_dir, "checkpoints", "last.ckpt")
    good = f"The last good checkpoint is {last}." if last.is_file() else "There is no checkpoint yet."
    return (
        f"{error} {good} Lower the learning rate (optimizer.lr), clip gradients (trainer.gradient_clip_val=1.0), or "
        "take precision=fp32; on_nonfinite=skip leaves such steps out, on_nonfinite=ignore trains on."
    )
