"""Learning-rate schedulers: ours, torch's, and functions of the user's."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from pytorch_lightning import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

# torch's documentation: to be stepped after every batch.
_PER_STEP = (CyclicLR, OneCycleLR)


def make_scheduler(lr_scheduler: Callable[..., Any], optimizer: Optimizer, *, steps_per_epoch: int) -> Any:
    """Return the dictionary that Lightning takes as `lr_scheduler`.

    Args:
        lr_scheduler: Called with the optimizer, and with `steps_per_epoch` where its signature has it. A scheduler of
            torch is stepped once an epoch (`OneCycleLR`, `CyclicLR` once an optimizer step); a dictionary is passed on.
        optimizer: The optimizer whose learning rate is scheduled.
        steps_per_epoch: Optimizer steps in an epoch.

    Raises:
        TypeError: The callable returns something else.
        ValueError: `ReduceLROnPlateau` without the metric that it watches.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> step = partial(torch.optim.lr_scheduler.StepLR, step_size=10)
        >>> make_scheduler(step, optimizer, steps_per_epoch=5)["interval"]
        'epoch'
    """
    options = {"steps_per_epoch": steps_per_epoch} if _takes_steps(lr_scheduler) else {}
    scheduler = lr_scheduler(optimizer, **options)
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ValueError(
            "ReduceLROnPlateau watches a metric, which it does not name by itself: give a function that returns "
            '{"scheduler": ReduceLROnPlateau(optimizer), "monitor": "val/loss"}, with data.val_fraction > 0.'
        )
    if not isinstance(scheduler, LRScheduler | Mapping):
        raise TypeError(
            f"`lr_scheduler` must return a scheduler of torch, or a dictionary of Lightning's, got {scheduler!r}."
        )
    if isinstance(scheduler, LRScheduler):
        return {"scheduler": scheduler, "interval": "step" if isinstance(scheduler, _PER_STEP) else "epoch"}
    return scheduler


def jump_of_schedules(trainer: Trainer) -> str | None:
    """Return the warning of an epoch's start: a schedule that counts steps is at another part of the training.

    A run that is resumed with another batch size has another number of steps in an epoch. So has one whose accumulation
    of gradients changes, or that was stopped within an epoch which counts as ended.
    """
    counts_steps = any(config.interval == "step" for config in trainer.lr_scheduler_configs)
    if not counts_steps or math.isinf(trainer.num_training_batches):
        return None
    per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    steps = trainer.global_step
    if steps == trainer.current_epoch * per_epoch:
        return None
    return (
        f"The learning rate is scheduled by steps. {trainer.current_epoch} epochs have taken {steps} of them, and an "
        f"epoch has {per_epoch} now, so that these are {steps / per_epoch:.4g} epochs. If the batch size was changed, "
        "resume with the old one, or start a new run from the weights: init_from=<checkpoint> "
        "lr_scheduler.interval=epoch."
    )


def _takes_steps(lr_scheduler: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(lr_scheduler).parameters.values()
    except ValueError:  # a callable without a signature
        return False
    return any(p.name == "steps_per_epoch" or p.kind is p.VAR_KEYWORD for p in parameters)
