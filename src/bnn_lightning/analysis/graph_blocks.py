"""Basic blocks of binary networks and their convolution modules, by name."""

from collections.abc import Callable
from functools import partial

from torch import nn

from bnn_lightning.binarizers.base import BinarizerFactory
from bnn_lightning.models.blocks import DoubleSkipBlock, LayerFactory, layer_factory, pad_shortcut
from bnn_lightning.models.bnext import CLIPPED_RSIGN, BNextBlock
from bnn_lightning.models.bnext_units import BNextConv, RealLayers
from bnn_lightning.models.conv_blocks import BiRealUnit, ReActUnit, RealToBinaryUnit, Unit, XNORUnit
from bnn_lightning.models.reactnet import ReActBlock
from bnn_lightning.models.xnornet import XNORBlock
from bnn_lightning.utils.checks import check_integer
from bnn_lightning.utils.text import did_you_mean

Maker = Callable[[int, int, int], nn.Module]


def _layers(input_binarizer: str | BinarizerFactory, weight_binarizer: str | BinarizerFactory) -> LayerFactory:
    return layer_factory(True, None, None, defaults=(input_binarizer, weight_binarizer))


def _two(unit: type[Unit]) -> Maker:
    """Make two units, of which the first has the stride and the change of width."""
    return lambda a, b, stride: nn.Sequential(unit(a, b, stride), unit(b, b))


_BNEXT = _layers(CLIPPED_RSIGN, "TemperatureSign")
_MAKERS: dict[str, tuple[str, Maker]] = {
    "birealnet": ("Bi-Real Net: two units", _two(BiRealUnit)),
    "bnext": (
        "BNext: ELM-Attention and FFN",
        partial(BNextBlock, multiply=True, layers=_BNEXT, real=RealLayers(), recoupling=True),
    ),
    "reactnet": ("ReActNet: 3×3 and 1×1 unit", partial(ReActBlock, layers=_layers(*ReActUnit.default_binarizers))),
    "real2binary": ("Real-to-Binary: two half blocks", _two(RealToBinaryUnit)),
    "skd": (
        "SKD-BNN: double skip",
        partial(DoubleSkipBlock, layers=_layers("SignEDE", "Libra"), shortcut=pad_shortcut),
    ),
    "xnornet": ("XNOR-Net: two units and a skip", partial(XNORBlock, layers=_layers(*XNORUnit.default_binarizers))),
    "bnext_module": ("BNext: convolution module", lambda a, b, stride: BNextConv(a, b, 3, stride, layers=_BNEXT)),
    "real2binary_module": ("Real-to-Binary: convolution module", RealToBinaryUnit),
    "xnornet_module": ("XNOR-Net: convolution module", XNORUnit),
}
# Blocks whose output has as many channels as the input, or another number that the rule names.
_WIDTHS: dict[str, tuple[str, Callable[[int, int], bool]]] = {
    "bnext": ("once or twice", lambda a, b: b in (a, 2 * a)),
    "bnext_module": ("exactly", lambda a, b: a == b),
    "reactnet": ("a multiple of", lambda a, b: b % a == 0),
    "skd": ("an even number more than", lambda a, b: b >= a and (b - a) % 2 == 0),
}


def list_blocks() -> list[str]:
    """Return the names of the blocks and convolution modules, sorted.

    Example:
        >>> [name for name in list_blocks() if name.startswith("bnext")]
        ['bnext', 'bnext_module']
    """
    return sorted(_MAKERS)


def block_title(name: str) -> str:
    """Return the title of a block in a figure."""
    return _MAKERS[name][0]


def create_block(name: str, inplanes: int, outplanes: int, *, stride: int = 1) -> nn.Module:
    """Build a basic block, or a convolution module, with the binarizers of its paper.

    Args:
        name: One of `list_blocks()`.
        inplanes: Channels of the input.
        outplanes: Channels of the output.
        stride: 1 or 2.

    Raises:
        ValueError: Unknown name, or sizes that the block does not have.

    Example:
        >>> import torch
        >>> create_block("bnext", 16, 32, stride=2)(torch.randn(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])
    """
    if name not in _MAKERS:
        hint = did_you_mean(name, _MAKERS)
        raise ValueError(f"Unknown block `{name}`.{hint} Known: {', '.join(list_blocks())}.")
    check_integer("inplanes", inplanes, 1)
    check_integer("outplanes", outplanes, 1)
    if stride not in (1, 2):
        raise ValueError(f"`stride` must be 1 or 2, got {stride}.")
    rule, fits = _WIDTHS.get(name, ("", lambda a, b: True))
    if not fits(inplanes, outplanes):
        raise ValueError(f"`outplanes` must be {rule} `inplanes` in `{name}`, got {inplanes} and {outplanes}.")
    return _MAKERS[name][1](inplanes, outplanes, stride)
