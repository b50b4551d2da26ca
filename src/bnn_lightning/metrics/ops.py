"""Count parameters, binary weights and multiply-accumulates of a network, to the unit."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bnn_lightning.layers.binary import BinaryLayer


@dataclass(frozen=True)
class LayerOps:
    """Counts of one module, for one image.

    Attributes:
        name: Qualified name of the module.
        kind: Name of its class.
        parameters: Elements of its own parameters, binary weights among them.
        binary_weights: Elements of its weights that are binarized.
        binary_macs: Multiply-accumulates of two binarized factors.
        mixed_macs: Multiply-accumulates with one binarized factor (the first layer of the MLP).
        float_macs: All others.
    """

    name: str
    kind: str
    parameters: int = 0
    binary_weights: int = 0
    binary_macs: int = 0
    mixed_macs: int = 0
    float_macs: int = 0


@dataclass(frozen=True)
class OpCount:
    """Counts of a network for one image: a row a module that has parameters or multiplies, and their sums.

    Multiply-accumulates are those of convolutions and matrix products; padded positions count, as in the papers.
    Biases, batch norm, pooling and activations multiply nothing here.
    """

    layers: tuple[LayerOps, ...]

    @property
    def parameters(self) -> int:
        """Elements of all parameters, shared ones once; buffers are none."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def binary_weights(self) -> int:
        """Elements of the weights that are binarized."""
        return sum(layer.binary_weights for layer in self.layers)

    @property
    def binary_macs(self) -> int:
        """Multiply-accumulates of two binarized factors."""
        return sum(layer.binary_macs for layer in self.layers)

    @property
    def mixed_macs(self) -> int:
        """Multiply-accumulates with one binarized factor."""
        return sum(layer.mixed_macs for layer in self.layers)

    @property
    def float_macs(self) -> int:
        """Multiply-accumulates of two real factors."""
        return sum(layer.float_macs for layer in self.layers)

    @property
    def packed_bytes(self) -> int:
        """Bytes of the parameters with one bit for a binary weight and four bytes for any other."""
        return (self.binary_weights + 7) // 8 + 4 * (self.parameters - self.binary_weights)


def count_ops(model: nn.Module, input_size: Sequence[int]) -> OpCount:
    """Count a network's parameters and multiply-accumulates by running it once, in evaluation mode.

    Args:
        model: Any network; its modes are restored.
        input_size: Shape of one image, (C, H, W).

    Raises:
        RuntimeError: A convolution or linear layer ran in which torch's counter sees no operation.

    Example:
        >>> from bnn_lightning.binarizers import SignSTE, WeightSign
        >>> from bnn_lightning.layers import BinaryConv2d
        >>> binary = BinaryConv2d(4, 8, 3, padding=1, input_binarizer=SignSTE(), weight_binarizer=WeightSign())
        >>> print(ops_table(count_ops(nn.Sequential(nn.Conv2d(3, 4, 1), binary), (3, 2, 2))))
        layer  kind          parameters  binary weights  binary MACs  float MACs
        0      Conv2d                16               0            0          48
        1      BinaryConv2d         296             288        1,152           0
        total                       312             288        1,152          48
    """
    counter = FlopCounterMode(display=False)
    rows = _rows(model)
    parameter = next(model.parameters(), torch.empty(0))
    image = torch.zeros(1, *input_size, dtype=parameter.dtype, device=parameter.device)
    with evaluation(model), torch.no_grad(), counter, _watched(model, counter, rows):
        # `forward`, not a call: a network compiled in place would run outside the counter's sight.
        model.forward(image)
    counted = sum(row[kind] for row in rows.values() for kind in ("binary_macs", "mixed_macs", "float_macs"))
    rest = counter.get_total_flops() // 2 - counted
    layers = [
        LayerOps(name=name, kind=type(module).__name__, **rows[name])
        for name, module in model.named_modules()
        if any(rows[name].values())
    ]
    if rest:
        layers.append(LayerOps(name="(outside of layers)", kind="", float_macs=rest))
    return OpCount(tuple(layers))


def ops_table(count: OpCount) -> str:
    """Return the counts as a table in plain text: a row a module, and the sums.

    Args:
        count: From `count_ops`.
    """
    columns = ["parameters", "binary_weights", "binary_macs", "mixed_macs", "float_macs"]
    columns = [column for column in columns if column != "mixed_macs" or count.mixed_macs]
    header = ["layer", "kind", *(column.replace("_", " ").replace("macs", "MACs") for column in columns)]
    rows = [[row.name, row.kind, *(f"{getattr(row, column):,}" for column in columns)] for row in count.layers]
    table = [header, *rows, ["total", "", *(f"{getattr(count, column):,}" for column in columns)]]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )


def _rows(model: nn.Module) -> dict[str, dict[str, int]]:
    rows = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if id(p) not in seen]
        seen.update(map(id, own))
        binary = isinstance(module, BinaryLayer) and module.is_binary_layer
        rows[name] = {
            "parameters": sum(p.numel() for p in own),
            "binary_weights": sum(p.numel() for p in own if binary and p is module.weight),
            "binary_macs": 0,
            "mixed_macs": 0,
            "float_macs": 0,
        }
    return rows


def _column(module: nn.Module) -> str:
    if not isinstance(module, BinaryLayer):
        return "float_macs"
    factors = (module.weight_binarizer is not None) + (module.input_binarizer is not None)
    return ("float_macs", "mixed_macs", "binary_macs")[factors]


@contextmanager
def _watched(model: nn.Module, counter: FlopCounterMode, rows: dict[str, dict[str, int]]) -> Iterator[None]:
    before: dict[str, int] = {}
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        def enter(*_: Any) -> None:
            before[name] = counter.get_total_flops()

        def leave(*_: Any) -> None:
            flops = counter.get_total_flops() - before[name]
            if not flops:
                raise RuntimeError(f"`{name}` ({type(module).__name__}) ran, but torch's counter saw no product in it.")
            rows[name][_column(module)] += flops // 2

        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave))

    try:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
                watch(name, module)
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode, and every module back in its own."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
