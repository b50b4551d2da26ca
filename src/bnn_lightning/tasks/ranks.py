"""What a task has to do about other ranks."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from bnn_lightning.tasks.classification import ClassificationTask

STATES = ("state_dict", "current_model_state")  # the second is Lightning's, where it averages weights


def is_distributed() -> bool:
    """Whether there are other ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def add_up_over_ranks(task: "ClassificationTask", checkpoint: dict[str, Any]) -> None:
    """Write what the ranks have gathered together, into a checkpoint that rank 0 alone writes; on all ranks."""
    gathered = task.train_means.total_state("train_means.") | task.distiller.state_dict(prefix="distiller.")
    for state in states(checkpoint):
        state.update(gathered)


def keep_on_one_rank(task: "ClassificationTask", checkpoint: dict[str, Any]) -> None:
    """Leave the epoch's sums in a checkpoint that was loaded on every rank to rank 0 alone."""
    if task.global_rank == 0:
        return
    for state in states(checkpoint):
        for name in [name for name in state if name.startswith("train_means.")]:
            state[name] = torch.zeros_like(state[name])


def states(checkpoint: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the state dicts of the task in a checkpoint."""
    return (checkpoint[key] for key in STATES if key in checkpoint)


def begin_evaluation(task: "ClassificationTask") -> None:
    """Give all ranks the buffers of rank 0, which checkpoints carry; then let each evaluate on its own.

    DDP hands the buffers out before every forward, in evaluation too: ranks with different numbers of batches would
    wait for each other for ever.
    """
    if not is_distributed():
        return
    for buffer in task.backbone.buffers():
        dist.broadcast(buffer, src=0)
    model = task.trainer.strategy.model
    if isinstance(model, DistributedDataParallel):
        task.broadcast_buffers = model.broadcast_buffers
        model.broadcast_buffers = False


def end_evaluation(task: "ClassificationTask") -> None:
    """Go back to what training does with buffers."""
    model = task.trainer.strategy.model
    if isinstance(model, DistributedDataParallel):
        model.broadcast_buffers = task.broadcast_buffers
