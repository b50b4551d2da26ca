"""Collective operations of a task between ranks."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from bnn_lightning.distill.bank import SoftLabelBank
from bnn_lightning.metrics.means import EpochMeans
from bnn_lightning.utils.hardware import is_distributed

STATES = ("state_dict", "current_model_state")  # the second is Lightning's, where it averages weights


def add_up_over_ranks(means: EpochMeans, distiller: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Write the gathered state of all ranks into a checkpoint that rank 0 alone writes; on all ranks."""
    gathered = means.total_state("train_means.") | distiller.state_dict(prefix="distiller.")
    for state in states(checkpoint):
        state.update(gathered)


def keep_on_one_rank(means: EpochMeans, rank: int, checkpoint: dict[str, Any]) -> None:
    """Leave the epoch's sums in a checkpoint that was loaded on every rank to rank 0 alone."""
    if rank == 0:
        return
    means.reset()  # a strategy that shards has loaded the weights before it calls this
    for state in states(checkpoint):
        for name in [name for name in state if name.startswith("train_means.")]:
            state[name] = torch.zeros_like(state[name])


def states(checkpoint: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the state dicts of the task in a checkpoint."""
    return (checkpoint[key] for key in STATES if key in checkpoint)


def buffers_of_banks(task: nn.Module) -> list[str]:
    """Return the names of the buffers of soft-label banks, which are equal on all ranks without being broadcast."""
    banks = {name: module for name, module in task.named_modules() if isinstance(module, SoftLabelBank)}
    return [f"{name}.{buffer}" for name, bank in banks.items() for buffer, _ in bank.named_buffers()]


def share_buffers(backbone: nn.Module) -> None:
    """Give all ranks the backbone's buffers of rank 0, which are those that checkpoints carry; on all ranks.

    Batch statistics part in every training step. DDP hands them out before the next one, and knows no evaluation on
    its own after the training.
    """
    if is_distributed():
        for buffer in backbone.buffers():
            dist.broadcast(buffer, src=0)
