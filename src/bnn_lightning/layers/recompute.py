"""Activation checkpointing: the inside of blocks is recomputed in the backward pass."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from bnn_lightning.layers.binary import BinaryLayer
from bnn_lightning.layers.module_utils import replace_attribute


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the blocks of a network by name: what holds binary layers, in its lists of modules or on its own.

    Example:
        >>> from bnn_lightning.layers import BinaryConv2d
        >>> block = lambda: nn.ModuleDict({"conv": BinaryConv2d(4, 4, 1)})
        >>> list(blocks_of(nn.ModuleDict({"stem": nn.Conv2d(3, 4, 1), "layer1": nn.Sequential(block(), block())})))
        ['layer1.0', 'layer1.1']
    """
    found: dict[str, nn.Module] = {}
    for name, child in model.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            found |= {f"{name}.{inner}": block for inner, block in blocks_of(child).items()}
        elif not isinstance(child, BinaryLayer) and any(isinstance(m, BinaryLayer) for m in child.modules()):
            found[name] = child
    return found


def check_recomputable(model: nn.Module, *, compile: bool) -> None:
    """Refuse a network without blocks (an MLP, VGG-Small), in which there is nothing to recompute, and a compiled one.

    Raises:
        ValueError: It is one of these.
    """
    if not blocks_of(model):
        raise ValueError(
            f"`checkpoint_activations`: {type(model).__name__} has no blocks that hold binary layers, whose inside "
            "could be computed again. Leave it out."
        )
    if compile:
        raise ValueError("`checkpoint_activations` and `compile` exclude each other: leave one of them out.")


@contextmanager
def recomputed(model: nn.Module) -> Iterator[None]:
    """Let a forward keep the inputs of the network's blocks only; backward then runs each block a second time.

    Gradients are the same, random numbers are drawn as before, and batch norm notes its statistics once. Forward hooks
    inside of blocks that are still there in backward are called again. Modules of one's own that change their state in
    forward do so twice (torch's normalization layers are looked after).

    Args:
        model: A network; on leaving, it is as it was.
    """
    with ExitStack() as stack:
        for block in blocks_of(model).values():
            replace_attribute(block, "forward", partial(_recomputing, block, block.forward), stack)
        yield


def _recomputing(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return checkpoint(forward, *args, use_reentrant=False, context_fn=partial(_contexts, block), **kwargs)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), _StatisticsStay(block)


class _StatisticsStay:
    """Let normalization layers note the batch's statistics in copies; entered once for every backward of a graph.

    To note none (`track_running_stats=False`) would save fewer tensors for backward than the first run did, which torch
    refuses.
    """

    def __init__(self, block: nn.Module) -> None:
        self.norms = [m for m in block.modules() if isinstance(m, _NormBase) and m.training]
        self.kept: list[dict[str, Any]] = []

    def __enter__(self) -> None:
        self.kept = [dict(norm._buffers) for norm in self.norms]
        for norm in self.norms:
            norm._buffers.update({k: None if b is None else b.clone() for k, b in norm._buffers.items()})

    def __exit__(self, *_: object) -> None:
        for norm, buffers in zip(self.norms, self.kept, strict=True):
            norm._buffers.update(buffers)
