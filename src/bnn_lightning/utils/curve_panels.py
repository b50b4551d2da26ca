"""Panels of training curves: which metrics stand together, under which title, in figures and on a run's page."""

from collections.abc import Iterable
from dataclasses import dataclass

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class CurvePanel:
    """Metrics that are drawn together.

    Attributes:
        title: Title of the panel.
        names: Metrics in it; with `prefix`, all that begin so.
        prefix: Beginning of the metrics' names.
        percent: Values are shares, shown in percent.
        log: A logarithmic axis where the values span more than a factor of 20.
    """

    title: str
    names: tuple[str, ...] = ()
    prefix: str = ""
    percent: bool = False
    log: bool = False

    def series(self, logged: Iterable[str]) -> list[str]:
        """Return the metrics of this panel among those that were logged."""
        known = dict.fromkeys(logged)
        if self.prefix:
            return sorted(name for name in known if name.startswith(self.prefix))
        return [name for name in self.names if name in known]

    def label(self, name: str) -> str:
        """Return the name of a metric within the panel.

        Example:
            >>> PANELS[0].label("val/loss"), PANELS[3].label("train/loss_hard"), PANELS[4].label("lr")
            ('val', 'hard', 'lr')
        """
        split, _, rest = name.partition("/")
        return name.removeprefix(self.prefix) if self.prefix else split if split in _SPLITS else rest or name


def _of_splits(name: str) -> tuple[str, ...]:
    return tuple(f"{split}/{name}" for split in _SPLITS)


def is_wide(values: Iterable[float]) -> bool:
    """Whether positive values span more than a factor of 20, so that a logarithmic axis shows them."""
    positive = [value for value in values if value > 0]
    return bool(positive) and max(positive) > 20 * min(positive)


PANELS = (
    CurvePanel("Loss", _of_splits("loss")),
    CurvePanel("Top-1 accuracy", _of_splits("acc"), percent=True),
    CurvePanel("Top-5 accuracy", _of_splits("acc_top5"), percent=True),
    CurvePanel("Terms of the training loss", prefix="train/loss_", log=True),
    CurvePanel("Learning rate", ("lr",)),
    CurvePanel("Annealing", ("binary/temperature", "binary/t", "binary/tau", "binary/power"), log=True),
    CurvePanel("Sign-flip rate of binary weights", ("binary/flip_rate",), percent=True, log=True),
    CurvePanel("Gradient norm of a term over cross-entropy's", prefix="gradient/", log=True),
)
