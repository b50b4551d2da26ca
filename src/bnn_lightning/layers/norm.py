"""Cumulative running statistics of batch normalization."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def cumulative(model: nn.Module, norms: list[_BatchNorm]) -> Iterator[None]:
    """Let `norms` gather plain means from zero, and the rest of the model evaluate; then put all modes back."""
    modes = {module: module.training for module in model.modules()}
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()
        norm.momentum = None
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
        norm.reset_running_stats()
    try:
        yield
    finally:
        for norm, momentum, num_batches_tracked in kept:
            norm.momentum, norm.num_batches_tracked = momentum, num_batches_tracked
        for module, mode in modes.items():
            module.training = mode


def is_frozen(norm: nn.Module) -> bool:
    """Whether a batch norm has parameters and none of them is trained: its statistics stay, too."""
    parameters = list(norm.parameters(recurse=False))
    return isinstance(norm, _BatchNorm) and bool(parameters) and not any(p.requires_grad for p in parameters)
