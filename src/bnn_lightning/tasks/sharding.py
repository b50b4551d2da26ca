"""FSDP2: weights, gradients and optimizer states sharded over ranks, block by block."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from bnn_lightning.layers.recompute import blocks_of


class FullyShardedStrategy(ModelParallelStrategy):
    """Lightning's `ModelParallelStrategy` with all ranks for the data, and checkpoints of one whole file.

    Every rank keeps its share of each weight, gradient and optimizer state, and sees whole weights only while a block
    computes. The checkpoints are those of any other strategy, so that a run may be resumed and scored with another.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        # As in DDP, and known before the processes have met, when data modules divide the batch.
        return {"num_replicas": self.num_nodes * self.num_processes, "rank": self.global_rank}

    def setup_environment(self) -> None:
        # Lightning's "auto" would give the ranks of a node to tensor parallelism.
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        checkpoint = super().load_checkpoint(checkpoint_path, weights_only)
        # Lightning hands out parameters and buffers; sums of metrics and the memory of distillers are neither.
        module = self.lightning_module
        assert module is not None
        tensors = {name for name, _ in [*module.named_parameters(), *module.named_buffers()]}
        state = torch.load(checkpoint_path, map_location="cpu", mmap=True, weights_only=True)["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name not in tensors}
        module.load_state_dict(checkpoint["state_dict"], strict=False)
        return checkpoint


def shard(backbone: nn.Module, mesh: DeviceMesh) -> None:
    """Share out the parameters of each block, and then those of the rest; once.

    Args:
        backbone: Its blocks are those that `task.checkpoint_activations` recomputes; without any it is one unit.
        mesh: The ranks, in one dimension.
    """
    if isinstance(backbone, FSDPModule):
        return
    backbone.to(memory_format=torch.contiguous_format)  # FSDP2 refuses parameters in any other
    for block in blocks_of(backbone).values():
        fully_shard(block, mesh=mesh)
    fully_shard(backbone, mesh=mesh)
