"""Lightning's Tuner callbacks, which a task of ours refuses."""

from collections.abc import Iterable

from pytorch_lightning.callbacks import BatchSizeFinder, Callback, LearningRateFinder

# By class name: why a run cannot have it.
REFUSED = {
    LearningRateFinder.__name__: (
        "it sets the attribute `lr` of the task, which has none: the learning rate is the optimizer's, and differs "
        "between parameter groups. Sweep it instead: bnn train -m optimizer.lr=0.001,0.01 objective=val/acc"
    ),
    BatchSizeFinder.__name__: (
        "it changes `batch_size`, which counts the images of an optimizer step over all devices and is part of the "
        "recipe. For memory keep it, and raise trainer.accumulate_grad_batches, or task.checkpoint_activations=true"
    ),
}


def why_refused(target: object) -> str | None:
    """Return why a class of this name is refused, or None.

    Example:
        >>> why_refused("pytorch_lightning.callbacks.BatchSizeFinder") is None
        False
        >>> why_refused("pytorch_lightning.callbacks.Timer")
    """
    name = str(target).rpartition(".")[2]
    return f"{name} of Lightning's Tuner is refused: {REFUSED[name]}." if name in REFUSED else None


def refuse_tuners(callbacks: Iterable[Callback]) -> None:
    """Refuse Lightning's Tuner callbacks.

    Raises:
        ValueError: One of them is among the callbacks; the message says why.
    """
    for callback in callbacks:
        if isinstance(callback, LearningRateFinder | BatchSizeFinder):
            kind = LearningRateFinder if isinstance(callback, LearningRateFinder) else BatchSizeFinder
            raise ValueError(why_refused(kind.__name__))
