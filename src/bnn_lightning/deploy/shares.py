"""Where the time of a packed network goes, operation by operation."""

import dataclasses
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bnn_lightning.deploy.kernels import kernel_info


@dataclasses.dataclass(frozen=True)
class Share:
    """An operation of a network.

    Attributes:
        operation: Its name in torch.
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
    runs: list[list[Share]] = []
    with torch.no_grad():
        for _ in range(1 + repeats):
            with _recording() as found:
                network(images)
            runs.append(found)
    runs = [run for run in runs[1:] if len(run) == len(runs[-1])]
    return [
        dataclasses.replace(same[0], seconds=statistics.median(share.seconds for share in same))
        for same in zip(*runs, strict=True)
    ]


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
        shape = tuple(out.shape) if isinstance(out, Tensor) else ()
        ours = space == "bnn_lightning"
        self.found.append(Share(name, shape, self.kernel if ours else "torch", ours, seconds))
        return out


@contextmanager
def _recording() -> Iterator[list[Share]]:
    recorder = _Recorder()
    with recorder:
        yield recorder.found
