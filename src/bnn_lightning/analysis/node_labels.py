"""Labels of the operations in the graph of a network."""

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from bnn_lightning.binarizers.base import Binarizer
from bnn_lightning.functional.elementwise import concatenate, prelu, spatial_mean, spatial_mean_of_halves
from bnn_lightning.layers.activation import LearnableBias, Maxout, RPReLU
from bnn_lightning.layers.attention import ChannelBlend
from bnn_lightning.models.backbone import Normalize
from bnn_lightning.models.network_graph import Kind

Label = tuple[str, str, Kind]

_FUNCTIONS: dict[Any, tuple[str, Kind]] = {
    operator.add: ("+", "elementwise"),
    operator.iadd: ("+", "elementwise"),
    torch.add: ("+", "elementwise"),
    "add": ("+", "elementwise"),
    "add_": ("+", "elementwise"),
    operator.mul: ("×", "elementwise"),
    operator.imul: ("×", "elementwise"),
    torch.mul: ("×", "elementwise"),
    "mul": ("×", "elementwise"),
    operator.sub: ("−", "elementwise"),
    operator.truediv: ("÷", "elementwise"),
    torch.cat: ("concat", "elementwise"),
    concatenate: ("concat", "elementwise"),
    prelu: ("PReLU", "activation"),
    torch.sigmoid: ("sigmoid", "activation"),
    "sigmoid": ("sigmoid", "activation"),
    F.avg_pool2d: ("average pool", "pool"),
    F.pad: ("pad with zeros", "other"),
    "flatten": ("flatten", "other"),
    "view": ("reshape", "other"),
    torch.flatten: ("flatten", "other"),
}
# Averages over a map.
MEANS = ("mean", torch.mean, spatial_mean, spatial_mean_of_halves)
# Steps of a binary layer, by name.
_STEPS: dict[str, tuple[str, Kind]] = {
    "weight_binarizer": ("sign", "sign"),
    "scale": ("scale α", "weights"),
    "scaled": ("× α", "elementwise"),
    "centers": ("+ centers", "elementwise"),
    "bias": ("+ bias", "elementwise"),
}


def label_of(node: fx.Node, module: nn.Module | None, layer: Any) -> Label:
    """Return label, detail and kind of a node.

    Args:
        node: Node of a traced graph.
        module: The module that it calls, if it calls one.
        layer: The binary layer that it is a step of, if it is one.
    """
    if node.op == "placeholder":
        return "input", "", "input"
    if node.op == "get_attr":
        return "latent weights" if str(node.target).endswith("weight") else str(node.target), "", "weights"
    if module is not None:
        return _of_module(module)
    name = getattr(node.target, "__name__", "")
    if layer is not None and name == "product":
        two = layer.input_binarizer is not None and layer.weight_binarizer is not None
        return ("binary " if two else "") + _kernel(layer), _channels(layer), "binary" if two else "conv"
    if layer is not None and name == "weight_binarizer":
        return "sign", type(layer.weight_binarizer).__name__, "sign"
    if layer is not None:
        return (_STEPS[name][0], "", _STEPS[name][1])
    if node.target in MEANS:
        return "global average", "", "pool"
    target: Any = node.target
    label, kind = _FUNCTIONS.get(target, (str(target) if isinstance(target, str) else name or node.name, "other"))
    return label, "", kind


def _of_module(module: nn.Module) -> Label:
    for classes, describe in _MODULES:
        if isinstance(module, classes):
            return describe(module)
    return type(module).__name__, "", "other"


def _kernel(module: Any) -> str:
    size = getattr(module, "kernel_size", None)
    return "linear" if size is None else f"conv {_by(size)}"


def _channels(module: Any) -> str:
    if isinstance(module, nn.Linear):
        return f"{module.in_features} → {module.out_features}"
    stride = module.stride if isinstance(module.stride, int) else module.stride[0]
    return f"{module.in_channels} → {module.out_channels}" + (f", stride {stride}" if stride != 1 else "")


def _by(size: Any) -> str:
    return f"{size}×{size}" if isinstance(size, int) else "×".join(map(str, size))


def _pool(module: Any) -> Label:
    return f"{'max' if isinstance(module, nn.MaxPool2d) else 'average'} pool {_by(module.kernel_size)}", "", "pool"


def _named(name: str, kind: Kind) -> Callable[[nn.Module], Label]:
    return lambda module: (name or type(module).__name__, "", kind)


_ACTIVATIONS = (nn.ReLU, nn.PReLU, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU, nn.LeakyReLU, RPReLU, Maxout)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)
_MODULES: tuple[tuple[Any, Callable[[Any], Label]], ...] = (
    (Binarizer, lambda module: ("sign", type(module).__name__, "sign")),
    ((nn.Conv2d, nn.Linear), lambda module: (_kernel(module), _channels(module), "conv")),
    (_NORMS, _named("", "norm")),
    (Normalize, _named("normalize", "norm")),
    (_ACTIVATIONS, _named("", "activation")),
    ((nn.MaxPool2d, nn.AvgPool2d), _pool),
    (ChannelBlend, _named("mix", "elementwise")),
    (LearnableBias, _named("+ bias", "elementwise")),
)
