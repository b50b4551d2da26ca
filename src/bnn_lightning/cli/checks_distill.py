"""Validate teachers before training starts."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pytorch_lightning import Callback

from bnn_lightning.callbacks.distill_progress import DistillProgress
from bnn_lightning.cli.errors import UserError, listed
from bnn_lightning.tasks.classification import ClassificationTask


def check_distiller(task: ClassificationTask, callbacks: Iterable[Callback], distill: Any) -> None:
    """Fetch the teachers, and refuse those that do not fit, and turns that nobody gives.

    Args:
        task: Holds the distiller.
        callbacks: Of the trainer.
        distill: The section that the distiller was built from, whose keys a message names.

    Raises:
        UserError: A file that is not there, a teacher of other classes, or no `DistillProgress` where it is needed.
    """
    try:
        task.distiller.prepare(task.backbone)
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
        message = "\n".join(_with_keys(line, distill) for line in str(error).splitlines())
        raise UserError(f"`distill`: {message}\nTo train with labels alone: distill=none.") from error
    if task.distiller.follows_progress and not any(isinstance(callback, DistillProgress) for callback in callbacks):
        raise UserError(
            f"`callbacks`: the teachers of {type(task.distiller).__name__} take turns, and there is no "
            "DistillProgress. It is among the default callbacks, as are the checkpoints: callbacks=[default,...]."
        )


def _with_keys(message: str, distill: Any) -> str:
    """Put the place of the teacher's network that a message names before the keys that it advises."""
    named = [(name, at) for name, at in _networks(distill, "distill") if name in message]
    if not named:
        return message
    _, at = max(named, key=lambda pair: len(pair[0]))
    return re.sub(r"\b(weights=<path>|pretrained=false)", rf"{at}.\1", message)


def _networks(node: Any, at: str) -> Iterator[tuple[str, str]]:
    """Yield name and place of each network that would fetch its weights."""
    if not isinstance(node, Mapping):
        return
    if node.get("name") and "weights" in node and node["weights"] is None:
        yield str(node["name"]), at
    for key in node:
        yield from _networks(node[key], f"{at}.{key}")


def check_turns(task: ClassificationTask, callbacks: Iterable[Callback], max_epochs: int | None) -> str | None:
    """Return what to warn of: the training ends before each of several assistants had its turn, or passes over some."""
    turns = next((callback for callback in callbacks if isinstance(callback, DistillProgress)), None)
    names = list(getattr(task.distiller, "assistants", ()))
    if turns is None or len(names) < 2 or max_epochs is None or max_epochs < 0:
        return None
    parts = 1 if turns.interval == "epoch" else 16  # of an epoch
    taken = set()
    for time in range(max_epochs * parts):
        task.distiller.set_progress(turns.progress(time, parts))
        taken.add(task.distiller.assistant)
    task.distiller.set_progress(0.0)
    idle = [name for name in names if name not in taken]
    if not idle:
        return None
    by_step = turns.interval == "epoch" and max_epochs >= turns.epochs
    remedy = ", or take callbacks.distill_progress.interval=step" if by_step else ""
    have = "has" if len(idle) == 1 else "have"
    return (
        f"{listed(idle)} of the {len(names)} assistants {have} no turn: each has a share of {turns.epochs} epochs, and "
        f"{max_epochs} are trained. Train longer{remedy}."
    )
