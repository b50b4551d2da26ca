"""Where the time of a packed network goes, operation by operation."""

import dataclasses
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bnn_lightning.deploy.kernels.library import current_kernel, kernel_info
from bnn_lightning.deploy.planner.schedule import make_plan
from bnn_lightning.deploy.planner.typed_graph import Signs, Sums, TypedGraph
from bnn_lightning.deploy.runtime.executor import Execution
from bnn_lightning.deploy.runtime.network import LoadedNetwork


@dataclasses.dataclass(frozen=True)
class Share:
    """An operation of a network.

    Attributes:
        operation: Its name, in the packed file or in torch; "signs of" it where its result is packed by itself.
        shape: Of what it gives.
        kernel: What computed it: a compiled kernel, or "torch".
        binary: Whether it computes on bits.
        seconds: Median over the runs.
    """

    operation: str
    shape: tuple[int, ...]
    kernel: str
    binary: bool
    seconds: float


def time_shares(network: nn.Module, images: Tensor, *, repeats: int = 9) -> list[Share]:
    """Time every operation of a network, in the order in which they run.

    What passes between operations, in Python, is not counted: the sum is less than the time of the whole.

    Args:
        network: From `pack` or `load`.
        images: What it takes.
        repeats: Runs, after one that does not count.

    Example:
        >>> from bnn_lightning.deploy import pack
        >>> from bnn_lightning.models import create_backbone
        >>> packed = pack(create_backbone("resnet20", num_classes=10, image_size=32).eval())
        >>> shares = time_shares(packed, torch.rand(1, 3, 32, 32), repeats=1)
        >>> sum(share.operation == "binary_conv2d" for share in shares)
        18
    """
    with torch.no_grad():
        network(images)  # what is made at the first call is made
        planned = plan_of(network, images) if isinstance(network, LoadedNetwork) else None
        runs = [_dispatched(network, images) if planned is None else _planned(*planned, images) for _ in range(repeats)]
    return [
        dataclasses.replace(same[0], seconds=statistics.median(share.seconds for share in same))
        for same in zip(*runs, strict=True)
    ]


def plan_of(network: LoadedNetwork, images: Tensor) -> tuple[Execution, str] | None:
    """Return the plan by which a network runs some images and the name of the kernel, None where torch runs all."""
    kernel = current_kernel()
    return None if kernel is None else (Execution(make_plan(TypedGraph(network, images)), kernel), kernel.name)


def _planned(execution: Execution, kernel: str, images: Tensor) -> list[Share]:
    actions = execution.plan.actions
    seconds = [0.0] * len(actions)
    execution.run(images, seconds)
    found = []
    for action, of_one in zip(actions, seconds, strict=True):
        name = execution.graph.nodes[action.number - 1].operation if action.number else "images"
        result = None if action.operation is None else action.operation.result
        packs, sums = isinstance(result, Signs), isinstance(result, Sums)
        shape = tuple(execution.graph.shape(action.number))
        where = "torch" if action.operation is None else kernel
        binary = packs or name == "binary_conv2d"
        name = f"signs of {name}" if packs else f"sums of {name}" if sums else name
        found.append(Share(name, shape, where, binary, of_one))
    return found


def _dispatched(network: nn.Module, images: Tensor) -> list[Share]:
    recorder = _Recorder()
    with recorder:
        network(images)
    return recorder.found


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Share] = []
        self.kernel = kernel_info().name

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.perf_counter()
        out = func(*args, **(kwargs or {}))
        seconds = time.perf_counter() - start
        space, _, name = func.name().partition("::")
        name = name.removesuffix(".unpacked")
        shape = tuple(out.shape) if isinstance(out, Tensor) else ()
        ours = space == "bnn_lightning"
        self.found.append(Share(name, shape, self.kernel if ours else "torch", ours, seconds))
        return out
