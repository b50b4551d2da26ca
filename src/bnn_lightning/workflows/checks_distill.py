"""Validate teachers before training starts."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from bnn_lightning.tasks.classification import ClassificationTask
from bnn_lightning.workflows.errors import UserError, listed


def check_distiller(task: ClassificationTask, distill: Any) -> None:
    """Fetch the teachers, and refuse those that do not fit.

    Args:
        task: Holds the distiller.
        distill: The section that the distiller was built from, whose keys a message names.

    Raises:
        UserError: A file that is not there, or a teacher of other classes.
    """
    try:
        task.distiller.prepare(task.backbone)
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
        message = "\n".join(_with_keys(line, distill) for line in str(error).splitlines())
        raise UserError(f"`distill`: {message}\nTo train with labels alone: distill=none.") from error


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


def check_turns(task: ClassificationTask, max_epochs: int | None) -> str | None:
    """Return the warning of a training that ends before each assistant had its turn, or passes over some."""
    names = list(getattr(task.distiller, "assistants", ()))
    if len(names) < 2 or max_epochs is None or max_epochs < 1:
        return None
    progress, length = task.progress, task.progress.length(max_epochs)
    parts = 1 if progress.interval == "epoch" else 16  # of an epoch
    taken = set()
    for time in range(max_epochs * parts):
        task.distiller.set_progress(progress.at(time, parts, max_epochs=max_epochs))
        taken.add(task.distiller.assistant)
    task.distiller.set_progress(0.0)
    idle = [name for name in names if name not in taken]
    if not idle:
        return None
    by_step = progress.interval == "epoch" and max_epochs >= length
    remedy = ", or take task.progress_interval=step" if by_step else ""
    have = "has" if len(idle) == 1 else "have"
    return (
        f"{listed(idle)} of the {len(names)} assistants {have} no turn: each has a share of {length} epochs, and "
        f"{max_epochs} are trained. Train longer{remedy}."
    )
