"""Learning-rate schedulers in the form that Lightning's `configure_optimizers` takes.

Each is a function `(optimizer, *, steps_per_epoch, ...)`; a config binds its options with `_partial_`. The length of a
schedule is its own `epochs`, not the trainer's: past it, the rate stays at its last value, with a warning.
`interval="epoch"` changes the rate once an epoch, `"step"` at every optimizer step (accumulated batches are one step).
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, TypedDict

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from bnn_lightning.utils.checks import check_choice, check_integer
from bnn_lightning.utils.signature import passes_on

Interval = Literal["epoch", "step"]


class SchedulerConfig(TypedDict):
    """Learning-rate scheduler, as Lightning takes it (`lr_scheduler`)."""

    scheduler: LambdaLR
    interval: Interval
    frequency: int
    name: str


def scheduled(
    optimizer: Optimizer,
    decay: Callable[[float], float],
    *,
    steps_per_epoch: int,
    epochs: int,
    warmup_epochs: int = 0,
    warmup_start: float | None = None,
    decay_epochs: int | None = None,
    interval: Interval = "epoch",
) -> SchedulerConfig:
    """Warm up linearly, then multiply the rate by `decay(share)`, where `share` goes from 0 to 1 between W and E.

    Args:
        optimizer: Its rates are the peak.
        decay: Factor of the rate.
        steps_per_epoch: Optimizer steps in an epoch.
        epochs: Length of the schedule.
        warmup_epochs: Length of the warm-up, within `epochs`.
        warmup_start: Share s of the peak at time 0; then the factor is s + (1 - s) t / W while t < W. None starts at
            one part of W + 1.
        decay_epochs: Length of the decay, which the end of the schedule may cut off; None means E - W. BNext's is E, so
            that its last rate is a little higher.
        interval: "epoch" or "step".

    Raises:
        ValueError: A length, an interval or a factor that is out of range.
    """
    unit = units(interval, steps_per_epoch)
    check_integer("epochs", epochs, 1)
    check_integer("warmup_epochs", warmup_epochs, 0)
    if decay_epochs is not None:
        check_integer("decay_epochs", decay_epochs, 1)
    end, warmup = epochs * unit, warmup_epochs * unit
    if warmup >= end:
        raise ValueError(f"`warmup_epochs` must be less than `epochs` = {epochs}, got {warmup_epochs}.")
    span = end - warmup if decay_epochs is None else decay_epochs * unit
    warm_up = warmup_factor(warmup, warmup_start)

    def factor(time: int) -> float:
        if time > end:  # at `end` itself the last step or epoch has just been made, and no other need follow
            warnings.warn(
                f"The learning-rate schedule of {epochs} epochs is over; the rate stays at its last value. "
                "Set the schedule's `epochs` to the length of the training.",
                stacklevel=2,
            )
        time = min(time, end - 1)
        return warm_up(time) if time <= warmup else decay(min(1.0, (time - warmup) / span))

    return wrap(optimizer, factor, interval)


@passes_on(scheduled)
def warmup_cosine(optimizer: Optimizer, *, min_factor: float = 0.0, **options: Any) -> SchedulerConfig:
    """Warm up linearly, then follow half a cosine.

    With time t in epochs or steps, W = `warmup_epochs` and E = `epochs` in the same unit, and m = `min_factor`, the
    rate is multiplied by (t + 1) / (W + 1) while t <= W, and by m + (1 - m) (1 + cos(pi (t - W) / (E - W))) / 2 after.
    The last value in use, at t = E - 1, is slightly above m.

    Args:
        optimizer: Its rates are the peak.
        min_factor: Share of the peak at the end: Adam from 0.01 to 1e-5 has 1e-3.
        **options: As `scheduled` takes them.

    Raises:
        ValueError: A length, an interval or a factor that is out of range.

    Example:
        >>> import torch
        >>> sgd = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> warmup_cosine(sgd, steps_per_epoch=390, epochs=700, warmup_epochs=8)["scheduler"].get_last_lr()
        [0.011111111111111112]

    References:
        Zeng et al., SKD-BNN, Applied Intelligence 54, 2024: per epoch, with 8 or 16 epochs of warm-up. Guo et al.,
        BNext, 2022: per epoch, 5 epochs of warm-up from 0.01 of the peak, decay over all 512.
    """
    check_factor("min_factor", min_factor)

    def decay(share: float) -> float:
        return min_factor + (1 - min_factor) * 0.5 * (1 + math.cos(math.pi * share))

    return scheduled(optimizer, decay, **options)


@passes_on(scheduled)
def linear(optimizer: Optimizer, *, min_factor: float = 0.0, **options: Any) -> SchedulerConfig:
    """Warm up linearly, then fall linearly to `min_factor` times the peak at time E; see `warmup_cosine`.

    Example:
        >>> import torch
        >>> adam = torch.optim.Adam([torch.zeros(1)], lr=1.0)
        >>> scheduler = linear(adam, steps_per_epoch=1, epochs=4)["scheduler"]
        >>> [scheduler.lr_lambdas[0](epoch) for epoch in range(4)]
        [1.0, 0.75, 0.5, 0.25]
    """
    check_factor("min_factor", min_factor)

    def decay(share: float) -> float:
        return 1 - (1 - min_factor) * share

    return scheduled(optimizer, decay, **options)


def constant(
    optimizer: Optimizer,
    *,
    steps_per_epoch: int,
    warmup_epochs: int = 0,
    warmup_start: float | None = None,
    interval: Interval = "epoch",
) -> SchedulerConfig:
    """Warm up linearly, then keep the peak; a constant rate has no end.

    Example:
        >>> import torch
        >>> sgd = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> scheduler = constant(sgd, steps_per_epoch=1, warmup_epochs=1)["scheduler"]
        >>> [scheduler.lr_lambdas[0](epoch) for epoch in range(3)]
        [0.5, 1.0, 1.0]
    """
    unit = units(interval, steps_per_epoch)
    check_integer("warmup_epochs", warmup_epochs, 0)
    warmup = warmup_epochs * unit
    warm_up = warmup_factor(warmup, warmup_start)

    def factor(time: int) -> float:
        return warm_up(min(time, warmup))

    return wrap(optimizer, factor, interval)


def warmup_factor(warmup: int, start: float | None) -> Callable[[int], float]:
    """Return the share of the peak at times 0 ... `warmup`, where it is 1."""
    if start is None:
        return lambda time: (time + 1) / (warmup + 1)
    check_factor("warmup_start", start)
    return lambda time: 1.0 if time >= warmup else start + (1 - start) * time / warmup


def wrap(optimizer: Optimizer, factor: Callable[[int], float], interval: Interval) -> SchedulerConfig:
    """Return Lightning's dictionary; `factor` maps a time to what the rates are multiplied with."""
    # A plain function and not an object: `LambdaLR` stores the attributes of objects in the checkpoint.
    return {"scheduler": LambdaLR(optimizer, factor), "interval": interval, "frequency": 1, "name": "lr"}


def units(interval: Interval, steps_per_epoch: int) -> int:
    """Return the number of schedule units in an epoch."""
    check_choice("interval", interval, Interval)
    if interval == "epoch":
        return 1
    check_integer("steps_per_epoch", steps_per_epoch, 1)
    return steps_per_epoch


def check_factor(name: str, value: float) -> None:
    """Refuse a factor outside of [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"`{name}` must lie between 0 and 1, got {value}.")
