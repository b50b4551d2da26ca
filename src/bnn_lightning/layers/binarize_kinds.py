"""Kinds of layers that `binarize` tells apart, and modules that it cannot replace."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from bnn_lightning.layers.binary import BinaryLayer

# Layers that papers leave real: those that see the image or give the logits, the projections of skips, depthwise
# convolutions, and the gates of squeeze-and-excite, whose averages of ReLU outputs have one sign.
KINDS = ("first", "last", "shortcut", "depthwise", "gate")

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
REPLACEABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
_SHORTCUT = re.compile(r"(^|[._])(downsample|shortcut|skip|proj)([._]|$)")
_GATE = re.compile(r"squeeze_?excit|^SE(Module|Layer|Block)|^SqueezeExcite", re.IGNORECASE)
# These compute with the weights of their linear layers themselves, and never call the layers; their fast paths in
# evaluation compute ReLU, whatever the module is by then.
_READERS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


def weighted_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the convolutions and linear layers with real weights by name, in module order; a shared one once."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (*_CONVS, nn.Linear)) and not isinstance(module, BinaryLayer)
    }


def kinds_of(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, list[str]]:
    """Return for each layer which of `KINDS` it is; most are none of them.

    Args:
        model: The network.
        layers: Its `weighted_layers`.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 9, 1), nn.Linear(9, 2))
        >>> kinds_of(net, weighted_layers(net))
        {'0': ['first'], '1': ['depthwise'], '2': [], '3': ['last']}
    """
    gates = gates_of(model)
    names = list(layers)
    return {name: _kinds(name, layer, names, gates) for name, layer in layers.items()}


def _kinds(name: str, layer: nn.Module, names: list[str], gates: set[str]) -> list[str]:
    conv: Any = layer if isinstance(layer, _CONVS) else None
    tests = {
        "first": name == names[0],
        "last": name == names[-1],
        "shortcut": conv and set(conv.kernel_size) == {1} and _SHORTCUT.search(name),
        "depthwise": conv and conv.groups == conv.in_channels > 1,
        "gate": in_gate(name, gates),
    }
    return [kind for kind, holds in tests.items() if holds]


def gates_of(model: nn.Module) -> set[str]:
    """Return the names of the squeeze-and-excite modules, known by their classes' names."""
    return {name for name, module in model.named_modules() if name and _GATE.search(type(module).__name__)}


def in_gate(name: str, gates: set[str]) -> bool:
    """Whether a module lies in one of the gates."""
    return any(name.startswith(f"{gate}.") for gate in gates)


def why_computed_elsewhere(model: nn.Module, name: str) -> str | None:
    """Return why a module stays as it is though no rule says so: another one computes it, and may never call it."""
    parts = name.split(".")[:-1]
    for depth in range(len(parts) + 1):
        parent = model.get_submodule(".".join(parts[:depth]))
        if isinstance(parent, _READERS):
            return f"{type(parent).__name__} computes it itself"
    return None


def keeping_real(patterns: Sequence[str]) -> str:
    """Return rules that keep layers real, as they are written in Python and on the command line.

    Example:
        >>> keeping_real(["*.qkv"])
        "rules={'*.qkv': False} (bnn: 'model.binarize.rules={*.qkv: false}')"
    """
    python, words = (", ".join(text.format(name) for name in patterns) for text in ("'{}': False", "{}: false"))
    return f"rules={{{python}}} (bnn: 'model.binarize.rules={{{words}}}')"


def why_not(layer: nn.Module) -> str | None:
    """Return why a layer cannot become binary, with the remedy, or None."""
    kind = type(layer)
    weight = layer._parameters.get("weight")
    if kind.__module__.startswith(("torch.ao.nn", "torch.nn.quantized")) or hasattr(layer, "qconfig"):
        return f"it is quantized ({kind.__module__}.{kind.__name__}): binarize the float network"
    if isinstance(weight, UninitializedParameter):
        return f"{kind.__name__} has no weight yet: call the network once before"
    if parametrize.is_parametrized(layer) or weight is None:
        return (
            "its weight is computed (weight norm, spectral norm, pruning or another parametrization): make it a "
            "parameter before (torch.nn.utils.parametrize.remove_parametrizations, remove_weight_norm, prune.remove)"
        )
    if kind not in REPLACEABLE:
        return f"there is no binary layer for {kind.__module__}.{kind.__name__}"
    if type(weight.data) is not Tensor or not weight.is_floating_point():
        return f"its weight is a {type(weight.data).__name__} of {weight.dtype}: binarize the float network"
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        return f"its `padding_mode` is {layer.padding_mode!r}, and binary convolutions pad with `pad_value` only"
    if _has_hooks(layer):
        return "it has hooks, which would be lost: remove them before"
    return None


def refuse_quantized(model: nn.Module) -> None:
    """Refuse scripted and quantized networks, whose layers are no convolutions or linear layers of torch's.

    Raises:
        TypeError: `model` is no module of Python code.
        ValueError: It holds a quantized layer.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(f"`{name or 'model'}` is a script, which cannot be changed: binarize the network before.")
        if type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")):
            raise ValueError(f"`{name}` is quantized ({type(module).__name__}): binarize the float network.")


def _has_hooks(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)
