"""Memory of inference beside the parameters: activations, and the statistics of batch norm."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bnn_lightning.layers.binary import BinaryLayer, input_of
from bnn_lightning.layers.module_utils import evaluation


def norm_statistics(model: nn.Module) -> int:
    """Return the number of running means and variances of a network: buffers, which sizes in papers leave out.

    Example:
        >>> norm_statistics(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)))
        16
    """
    tensors = (t for m in model.modules() if isinstance(m, _NormBase) for t in (m.running_mean, m.running_var))
    return sum(tensor.numel() for tensor in tensors if tensor is not None)


def activation_peak(model: nn.Module, input_size: Sequence[int]) -> int:
    """Return the bytes of activations that are needed at once, for one image in evaluation mode.

    It is the largest sum, over the operations that torch runs one after the other, of the operation's inputs, its
    output, and all activations that a later operation still reads, such as a shortcut. An activation is a tensor that
    depends on the image; views and operations in place take no memory of their own. A binary layer is one operation,
    whose binarized or quantized input takes its bits; all else counts in its own precision (float32: four bytes).
    Weights, workspaces of libraries, and what a fusing compiler would spare are not in it.

    Args:
        model: Any network; on the meta device nothing is computed.
        input_size: Shape of one image, (C, H, W).

    Example:
        The second layer reads 4 and writes 8 channels of 2 x 2.

        >>> activation_peak(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1)), (3, 2, 2))
        192
    """
    parameter = next(model.parameters(), torch.empty(0))
    image = torch.zeros(1, *input_size, dtype=parameter.dtype, device=parameter.device)
    recorder = _Recorder(image)
    with evaluation(model), torch.no_grad(), ExitStack() as stack, recorder:
        for module in model.modules():
            if isinstance(module, BinaryLayer) and module.input_binarizer is not None:
                stack.callback(module.register_forward_pre_hook(recorder.enter).remove)
                stack.callback(module.register_forward_hook(recorder.leave, with_kwargs=True).remove)
        output = model(image)
    return recorder.peak(output)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes when each activation is made and last read; time is the number of the operation."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.time = 0
        self.depth = 0  # of binary layers that run
        self.storages: list[Any] = []  # kept, so that no address is used twice
        self.life: dict[int, list[int]] = {}  # address: bytes, made, last read
        self.extra: dict[int, int] = {}  # time: bytes that only this operation needs
        self._write(image)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if not self.depth:
            self.note(tree_leaves((args, kwargs)), tree_leaves(output))
        return output

    def note(self, inputs: Sequence[Any], outputs: Sequence[Any], extra: int = 0) -> None:
        keys = [_address(tensor) for tensor in inputs if isinstance(tensor, Tensor)]
        read = [key for key in keys if key in self.life]
        if not read:
            return
        self.time += 1
        self.extra[self.time] = extra
        for key in read:
            self.life[key][2] = self.time
        for tensor in outputs:
            if isinstance(tensor, Tensor):
                self._write(tensor)

    def _write(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if _address(tensor) not in self.life:
            self.storages.append(storage)
            self.life[_address(tensor)] = [storage.nbytes(), self.time, self.time]

    def enter(self, module: nn.Module, args: Any) -> None:
        self.depth += 1

    def leave(self, module: Any, args: Any, kwargs: Any, output: Tensor) -> None:
        self.depth -= 1
        if not self.depth:
            x = input_of(args, kwargs)
            self.note([x], [output], extra=(x.numel() * module.input_binarizer.bits + 7) // 8)

    def peak(self, output: Any) -> int:
        """Return the largest sum of bytes alive at one time, the network's output being read at the end.

        What is never read (a batch norm returns statistics beside its output, on some devices) does not count.
        """
        self.note([tensor for tensor in tree_leaves(output) if isinstance(tensor, Tensor)], [])
        change = [0] * (self.time + 2)
        for size, made, last in self.life.values():
            if last > made:
                change[made] += size
                change[last + 1] -= size
        live, peak = 0, 0
        for time in range(self.time):
            live += change[time]
            peak = max(peak, live + self.extra.get(time, 0))
        return peak


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
