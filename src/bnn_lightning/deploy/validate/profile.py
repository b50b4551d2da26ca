"""Time of a packed network, operation by operation."""

import dataclasses
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bnn_lightning.deploy.kernels.call import KernelCall
from bnn_lightning.deploy.kernels.library import Kernel, current_kernel, kernel_info
from bnn_lightning.deploy.runtime.executor import Executor
from bnn_lightning.deploy.runtime.network import LoadedNetwork
from bnn_lightning.deploy.runtime.packed_network import PackedNetwork


@dataclasses.dataclass(frozen=True)
class Share:
    """An operation of a network.

    Attributes:
        operation: Its name, in the packed file or in torch; "signs of" it where its result is packed by itself.
        shape: Shape of its result.
        kernel: Name of the compiled kernel that computed it, or "torch".
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
        images: Images that it takes.
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
        kernel = current_kernel()
        program = network.program() if isinstance(network, PackedNetwork) else None
        network = network if program is None else program
        if isinstance(network, LoadedNetwork) and kernel is not None and network.is_planned:
            runs = [_planned(network, kernel, images) for _ in range(repeats)]
        else:
            runs = [_dispatched(network, images) for _ in range(repeats)]
    return [
        dataclasses.replace(same[0], seconds=statistics.median(share.seconds for share in same))
        for same in zip(*runs, strict=True)
    ]


def _planned(network: LoadedNetwork, kernel: Kernel, images: Tensor) -> list[Share]:
    """Time the calls of a plan; those of one node that follow upon each other count as one."""
    executor, takes_bytes = Executor(), images.dtype == torch.uint8
    calls = executor.plan(network, takes_bytes=takes_bytes).calls
    types = network.typed_graph(takes_bytes=takes_bytes).types
    seconds = [0.0] * len(calls)
    executor.run(network, images, kernel, seconds)
    shares: list[Share] = []
    before: object = None
    for call, of_one in zip(calls, seconds, strict=True):
        native = call.kernel if isinstance(call, KernelCall) else ""
        prefix = {"pack": "signs of ", "sum": "sums of "}.get(native, "")
        name = network.graph.nodes[call.node - 1].operation if call.node else "images"
        if before == (call.node, prefix):
            shares[-1] = dataclasses.replace(shares[-1], seconds=shares[-1].seconds + of_one)
        else:
            shape = types[call.node].for_images(images.shape[0])
            where = kernel.name if native else "torch"
            shares.append(Share(prefix + name, shape, where, native in ("pack", "convolve"), of_one))
        before = call.node, prefix
    return shares


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
