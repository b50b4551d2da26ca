"""Count parameters, binary weights and multiply-accumulates of a network, to the unit."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bnn_lightning.layers.binary import BinaryLayer
from bnn_lightning.layers.module_utils import evaluation
from bnn_lightning.utils.text import text_table


@dataclass(frozen=True)
class LayerOps:
    """Counts of one module, for one image.

    Attributes:
        name: Qualified name of the module.
        kind: Name of its class.
        parameters: Elements of its own parameters, binary weights among them.
        binary_weights: Elements of its weights that are binarized.
        binary_macs: Multiply-accumulates of two binarized factors.
        mixed_macs: Multiply-accumulates with one binarized or quantized factor (the first layer of the MLP).
        float_macs: Multiply-accumulates of two real factors.
        low_bit_weights: Elements of its weights that are quantized to 2 to 8 bits (ternary ones take 2).
        low_bit_macs: Multiply-accumulates of two quantized factors, of which one has more than one bit.
        weight_bits: Bits of a weight, None where it is real.
        input_bits: Bits of an input, None where it is real.
    """

    name: str
    kind: str
    parameters: int = 0
    binary_weights: int = 0
    binary_macs: int = 0
    mixed_macs: int = 0
    float_macs: int = 0
    low_bit_weights: int = 0
    low_bit_macs: int = 0
    weight_bits: int | None = None
    input_bits: int | None = None

    @property
    def bit_products(self) -> int:
        """Products of single bits: i * j for a multiply-accumulate of quantized factors of i and j bits."""
        return self.binary_macs + self.low_bit_macs * (self.weight_bits or 1) * (self.input_bits or 1)

    @property
    def mixed_products(self) -> int:
        """Products of a bit and a real number: i for a multiply-accumulate of i bits and a real factor."""
        return self.mixed_macs * (self.weight_bits or self.input_bits or 1)

    @property
    def quantized_weight_bits(self) -> int:
        """Bits of all binarized and quantized weights."""
        return self.binary_weights + self.low_bit_weights * (self.weight_bits or 1)


class _Total:
    """Sum of a count over the layers of an `OpCount`, under the same name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, count: "OpCount", owner: type) -> int:
        return sum(getattr(layer, self.name) for layer in count.layers)


@dataclass(frozen=True)
class OpCount:
    """Counts of a network for one image: a row a module that has parameters or multiplies, and their sums.

    The sums are called as the counts of `LayerOps`. Shared parameters count once; buffers are none.

    Multiply-accumulates are those of convolutions and matrix products; padded positions count, as in the papers.
    Biases, batch norm, pooling and activations multiply nothing here. The filter of ones that sums the input's signs
    for centered weights counts as one more filter; sums of weights are constants and do not count.
    """

    layers: tuple[LayerOps, ...]

    parameters = _Total()
    binary_weights = _Total()
    binary_macs = _Total()
    mixed_macs = _Total()
    float_macs = _Total()
    low_bit_weights = _Total()
    low_bit_macs = _Total()
    bit_products = _Total()
    mixed_products = _Total()
    quantized_weight_bits = _Total()


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
        model(image)
    constants = sum(row.pop(_UNCOUNTED) for row in rows.values())
    counted = sum(row[kind] for row in rows.values() for kind in _MACS)
    rest = counter.get_total_flops() // 2 - counted - constants
    layers = [
        LayerOps(name, type(module).__name__, **rows[name], **_bits(module))
        for name, module in model.named_modules()
        if any(rows[name].values())
    ]
    if rest:
        layers.append(LayerOps(name="(outside of layers)", kind="", float_macs=rest))
    return OpCount(tuple(layers))


def count_columns(count: OpCount) -> list[str]:
    """Return the names of the counts that a table shows: those of quantized and mixed factors only where there are any.

    Example:
        >>> count_columns(count_ops(nn.Sequential(nn.Linear(2, 3)), (2,)))
        ['parameters', 'binary_weights', 'binary_macs', 'float_macs']
    """
    columns = ("parameters", "binary_weights", "low_bit_weights", "binary_macs", "low_bit_macs", "mixed_macs")
    rare = ("low_bit_weights", "low_bit_macs", "mixed_macs")
    return [column for column in (*columns, "float_macs") if column not in rare or getattr(count, column)]


def ops_table(count: OpCount) -> str:
    """Return the counts as a table in plain text: a row a module, and the sums.

    Args:
        count: From `count_ops`.
    """
    columns = count_columns(count)
    header = [column.replace("_", " ").replace("low bit", "low-bit").replace("macs", "MACs") for column in columns]
    header = ["layer", "kind", *header]
    rows = [[row.name, row.kind, *(f"{getattr(row, column):,}" for column in columns)] for row in count.layers]
    total = ["total", "", *(f"{getattr(count, column):,}" for column in columns)]
    return "\n".join(text_table([header, *rows, total], right=range(2, len(header))))


_MACS = ("binary_macs", "low_bit_macs", "mixed_macs", "float_macs")
_UNCOUNTED = "uncounted"  # products whose result is a constant of the layer


def _bits(module: nn.Module) -> dict[str, Any]:
    if not isinstance(module, BinaryLayer):
        return {}
    parts = {"weight_bits": module.weight_binarizer, "input_bits": module.input_binarizer}
    return {name: None if binarizer is None else binarizer.bits for name, binarizer in parts.items()}


def _rows(model: nn.Module) -> dict[str, dict[str, int]]:
    rows = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if id(p) not in seen]
        seen.update(map(id, own))
        bits = _bits(module).get("weight_bits")
        quantized = sum(p.numel() for p in own if bits is not None and p is module.weight)
        rows[name] = {
            "parameters": sum(p.numel() for p in own),
            "binary_weights": quantized if bits == 1 else 0,
            "low_bit_weights": quantized if bits != 1 else 0,
            **dict.fromkeys((*_MACS, _UNCOUNTED), 0),
        }
    return rows


def _column(module: nn.Module) -> str:
    bits = [number for number in _bits(module).values() if number is not None]
    return "binary_macs" if bits == [1, 1] else ("float_macs", "mixed_macs", "low_bit_macs")[len(bits)]


@contextmanager
def _watched(model: nn.Module, counter: FlopCounterMode, rows: dict[str, dict[str, int]]) -> Iterator[None]:
    before: dict[str, int] = {}

    def watch(name: str, module: nn.Module) -> None:
        constants = 0

        def enter(*_: Any) -> None:
            nonlocal constants
            before[name], constants = counter.get_total_flops(), 0

        def leave(*_: Any) -> None:
            flops = counter.get_total_flops() - before[name] - constants
            if not flops:
                raise RuntimeError(f"`{name}` ({type(module).__name__}) ran, but torch's counter saw no product in it.")
            rows[name][_column(module)] += flops // 2
            rows[name][_UNCOUNTED] += constants // 2

        stack.callback(module.register_forward_pre_hook(enter).remove)
        stack.callback(module.register_forward_hook(leave).remove)
        if isinstance(module, BinaryLayer):
            sums = module.tap_sums

            def tap_sums(*args: Any) -> Tensor:
                nonlocal constants
                start = counter.get_total_flops()
                result = sums(*args)
                constants += counter.get_total_flops() - start
                return result

            module.tap_sums = tap_sums  # type: ignore[method-assign,assignment]
            stack.callback(delattr, module, "tap_sums")

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
                watch(name, module)
        yield
