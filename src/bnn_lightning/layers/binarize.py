"""Binary layers in place of the convolutions and linear layers of any torch network."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from bnn_lightning.binarizers.base import Binarizer, BinarizerFactory, InputBinarizer
from bnn_lightning.binarizers.factory import binarizer_factory, check_factory
from bnn_lightning.layers.activation import Hardtanh, PReLU
from bnn_lightning.layers.binarize_kinds import (
    KINDS,
    gates_of,
    in_gate,
    keeping_real,
    kinds_of,
    refuse_quantized,
    weighted_layers,
    why_computed_elsewhere,
    why_not,
)
from bnn_lightning.layers.binarize_report import BinarizeReport, Change
from bnn_lightning.layers.binary import BinaryLayer, check_pad_value
from bnn_lightning.layers.conv import BinaryConv1d, BinaryConv2d, BinaryConv3d
from bnn_lightning.layers.conv_transpose import BinaryConvTranspose2d
from bnn_lightning.layers.linear import BinaryLinear
from bnn_lightning.layers.module_utils import copy_network
from bnn_lightning.layers.try_binary import try_binary

Activation = Literal["PReLU", "Hardtanh"]
# A binarizer of every layer: by name, as an object that is copied, or as a function of the number of channels.
BinarizerChoice = str | Binarizer | BinarizerFactory | None
Rule = bool | Mapping[str, Any]

_EXCHANGED = (nn.ReLU, nn.ReLU6)
_CONVERT: dict[type[nn.Module], Callable[..., BinaryLayer]] = {
    nn.Conv1d: BinaryConv1d.from_conv,
    nn.Conv2d: BinaryConv2d.from_conv,
    nn.Conv3d: BinaryConv3d.from_conv,
    nn.ConvTranspose2d: BinaryConvTranspose2d.from_conv,
    nn.Linear: BinaryLinear.from_linear,
}


@dataclass(frozen=True)
class _Options:
    """Settings of one layer: those of the call, or those of a rule."""

    input_binarizer: BinarizerChoice
    weight_binarizer: BinarizerChoice
    pad_value: float


def binarize(
    model: nn.Module,
    *,
    input_binarizer: BinarizerChoice = "ApproxSign",
    weight_binarizer: BinarizerChoice = "XNORScale",
    activation: Activation | None = "PReLU",
    keep: Sequence[str] = KINDS,
    rules: Mapping[str, Rule] | None = None,
    pad_value: float = 0.0,
    example: Tensor | None = None,
    dry_run: bool = False,
) -> BinarizeReport:
    """Replace the convolutions and linear layers of a network by binary ones, in place.

    The binary layers share the parameters of the float ones, which are their latent weights from now on, so that the
    names in the state dict stay. Modules that are used in several places, and tied parameters, stay so.

    Args:
        model: Any network of torch, torchvision, timm or your own.
        input_binarizer: Binarizer of the layers' inputs: a name of `list_binarizers()`, a binarizer, of which each
            layer gets a copy, or a function of the number of channels. None leaves inputs real.
        weight_binarizer: Binarizer of the weights; see `input_binarizer`. None leaves weights real.
        activation: Takes the place of every ReLU and ReLU6 outside of gates and of torch's encoder layers: "PReLU"
            (one slope a module) or "Hardtanh"; never in place. None keeps them. The sign of what a ReLU gives is +1
            everywhere, so that a layer behind one learns nothing.
        keep: Kinds of layers that stay real: "first" and "last" in module order, "shortcut" (1x1 convolutions whose
            names have downsample, shortcut, skip or proj), "depthwise", "gate" (squeeze-and-excite).
        rules: By pattern of names (`*` and `?`), what prevails over `keep`: False keeps a module; True makes it
            binary, or exchanges a ReLU; a mapping with `input_binarizer`, `weight_binarizer` or `pad_value` makes it
            binary in its own way. Later ones prevail over earlier ones.
        pad_value: Padding value of the convolutions, 0, -1 or +1.
        example: An input to try the binary network with. Layers that the network never calls are then an error, and
            layers whose input has one sign are in the report.
        dry_run: Only report; the network stays as it is.

    Returns:
        The layers that were exchanged, or with `dry_run` would be.

    Raises:
        ValueError: An option out of its range, a rule that fits no layer and no ReLU, or a layer that cannot become
            binary: its message says why, and how to keep it real. The network is left as it was.
        TypeError: A binarizer of another kind.

    Example:
        >>> net = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 10)
        ... )
        >>> binarize(net)
        1 of 3 layers become binary: 576 of 2,072 weights (27.8 %)
          0  Conv2d(3, 8, 3x3)  stays real (first)
          2  Conv2d(8, 8, 3x3)  -> BinaryConv2d
          4  Linear(128, 10)    stays real (last)
          1  ReLU               -> PReLU
        >>> net[1], net[2].input_binarizer
        (PReLU(num_parameters=1), ApproxSign())
    """
    refuse_quantized(model)
    options = _Options(input_binarizer, weight_binarizer, check_pad_value(pad_value))
    _check_options(keep, activation)
    names = _names(model)
    layers = weighted_layers(model)
    rules = _check_rules(rules or {}, _replaceable(model, layers, names))
    new: dict[int, nn.Module] = {}
    changes = [
        _plan_layer(model, name, layer, kinds, names[id(layer)], keep, rules, options, new)
        for (name, layer), kinds in zip(layers.items(), kinds_of(model, layers).values(), strict=True)
    ]
    exchanged = [] if activation is None else _plan_activations(model, names, keep, rules, activation, new)
    constant: tuple[str, ...] = ()
    if example is not None:
        trial = copy_network(model)
        _replace(trial, {name: new[id(module)] for name, module in _every(model) if id(module) in new}, copies=True)
        constant = try_binary(trial, example)
    if not dry_run:
        _replace(model, {name: new[id(module)] for name, module in _every(model) if id(module) in new})
    return BinarizeReport(tuple(changes), tuple(exchanged), constant, dry_run)


def _every(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return list(model.named_modules(remove_duplicate=False))


def _names(model: nn.Module) -> dict[int, list[str]]:
    """Return all names of each module, by its identity."""
    names: dict[int, list[str]] = {}
    for name, module in _every(model):
        names.setdefault(id(module), []).append(name)
    return names


def _check_options(keep: Sequence[str], activation: str | None) -> None:
    if isinstance(keep, str):
        raise TypeError(f"`keep` must be a list of kinds, got the text {keep!r}.")
    for kind in keep:
        if kind not in KINDS:
            raise ValueError(f"`keep` must name kinds of {list(KINDS)}, got {kind!r}; names of modules go in `rules`.")
    if activation is not None and activation not in get_args(Activation):
        raise ValueError(f"`activation` must be one of {list(get_args(Activation))}, or None, got {activation!r}.")


def _replaceable(model: nn.Module, layers: Mapping[str, nn.Module], names: Mapping[int, list[str]]) -> list[str]:
    """Return all names of the modules that rules decide about."""
    activations = [module for module in model.modules() if type(module) in _EXCHANGED]
    return [name for module in (*layers.values(), *activations) for name in names[id(module)]]


def _check_rules(rules: Mapping[str, Rule], known: Sequence[str]) -> dict[str, Rule]:
    if not isinstance(rules, Mapping):
        raise TypeError(f"`rules` must be a mapping of patterns of names, got {rules!r}.")
    settings = list(_Options.__dataclass_fields__)
    for pattern, rule in rules.items():
        if not any(fnmatchcase(name, pattern) for name in known):
            raise ValueError(
                f"`rules`: no convolution, linear layer or ReLU is called {pattern!r}. For those within a module write "
                f"'MODULE.*'. The network has: {', '.join(known[:8])} ..."
            )
        if isinstance(rule, Mapping):
            for key in rule:
                if key not in settings:
                    raise ValueError(f"`rules[{pattern!r}]` has no option {key!r}. It has: {', '.join(settings)}.")
            check_pad_value(rule.get("pad_value", 0.0))
        elif not isinstance(rule, bool):
            raise TypeError(f"`rules[{pattern!r}]` must be true, false or a mapping of {settings}, got {rule!r}.")
    return dict(rules)


def _rule(names: Sequence[str], rules: Mapping[str, Rule]) -> tuple[str, Rule] | None:
    """Return the last rule that one of a module's names matches."""
    found = [(p, rule) for p, rule in rules.items() if any(fnmatchcase(name, p) for name in names)]
    return found[-1] if found else None


def _refusal(name: str, pattern: str, inner: str) -> ValueError:
    """Return the error for a rule on a module that is computed elsewhere."""
    return ValueError(
        f"`rules[{pattern!r}]`: `{name}` cannot be exchanged: {inner}. Leave it as it is: {keeping_real([name])}."
    )


def _plan_layer(
    model: nn.Module,
    name: str,
    layer: nn.Module,
    kinds: Sequence[str],
    names: Sequence[str],
    keep: Sequence[str],
    rules: Mapping[str, Rule],
    options: _Options,
    new: dict[int, nn.Module],
) -> Change:
    """Decide about one layer, and put its binary one into `new`."""
    weight = layer._parameters.get("weight")
    stays = partial(Change, name, describe(layer), "", num_weights=0 if weight is None else _numel(weight))
    found = _rule(names, rules)
    inner = why_computed_elsewhere(model, name)
    if found is None:
        kept = [kind for kind in kinds if kind in keep]
        if kept or inner:
            return stays(", ".join(kept) or str(inner))
    else:
        pattern, rule = found
        if rule is False:
            return stays(f"rule {pattern}")
        if inner:
            raise _refusal(name, pattern, inner)
        if isinstance(rule, Mapping):
            options = replace(options, **rule)
    reason = why_not(layer)
    if reason is not None:
        raise ValueError(f"`{name}` cannot become binary: {reason}; or keep it real: {keeping_real([name])}.")
    binary = _convert(name, layer, options)
    new[id(layer)] = binary
    reason = f"rule {found[0]}" if found else ""
    return replace(stays(reason), after=type(binary).__name__, real_weights=not binary.is_binary_layer)


def _convert(name: str, layer: nn.Module, options: _Options) -> BinaryLayer:
    """Return a binary layer with the parameters of `layer`, on its device."""
    channels = (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else _channels(layer)
    weight = layer.get_parameter("weight")
    arguments: dict[str, Any] = {
        argument: _make(argument, getattr(options, argument), number)
        for argument, number in zip(("input_binarizer", "weight_binarizer"), channels, strict=True)
    }
    for binarizer in arguments.values():
        if binarizer is not None:
            binarizer.to(weight.device, weight.dtype).train(layer.training)
    is_real = all(binarizer is None for binarizer in arguments.values())
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        arguments["pad_value"] = 0.0 if is_real else options.pad_value
    try:
        return _CONVERT[type(layer)](layer, **arguments)
    except TypeError as error:
        raise TypeError(f"`{name}`: {error}") from error


def _channels(layer: nn.Module) -> tuple[Any, Any]:
    return layer.in_channels, layer.out_channels


def _make(argument: str, choice: BinarizerChoice, num_channels: int) -> Binarizer | None:
    if choice is None:
        return None
    if isinstance(choice, str):
        return binarizer_factory(choice)(num_channels)
    if isinstance(choice, Binarizer):
        threshold = choice.threshold() if isinstance(choice, InputBinarizer) else None
        if threshold is not None and threshold.numel() not in (1, num_channels):
            raise ValueError(
                f"`{argument}` is for {threshold.numel()} channels, and a layer has {num_channels}: give its name, or "
                "a function of the number of channels."
            )
        return copy.deepcopy(choice)
    check_factory(argument, choice)
    return choice(num_channels)


def _plan_activations(
    model: nn.Module,
    names: Mapping[int, list[str]],
    keep: Sequence[str],
    rules: Mapping[str, Rule],
    activation: Activation,
    new: dict[int, nn.Module],
) -> list[Change]:
    gates = gates_of(model) if "gate" in keep else set()
    changes = []
    for name, module in model.named_modules():
        found = _rule(names[id(module)], rules)
        if type(module) not in _EXCHANGED or (found is not None and found[1] is False):
            continue
        inner = why_computed_elsewhere(model, name)
        if found is not None and inner:
            raise _refusal(name, found[0], inner)
        if found is None and (inner or in_gate(name, gates)):
            continue
        exchanged = PReLU() if activation == "PReLU" else Hardtanh()
        new[id(module)] = exchanged.train(module.training)
        changes.append(Change(name, type(module).__name__, activation, ""))
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    for change in changes:
        new[id(model.get_submodule(change.name))].to(device)
    return changes


def _replace(model: nn.Module, new: Mapping[str, nn.Module], *, copies: bool = False) -> None:
    """Put modules in their places.

    Raises:
        ValueError: The network is itself such a layer, which cannot be changed in place.
    """
    if "" in new:
        raise ValueError(f"`model` is a layer itself: take {type(new['']).__name__}.from_* for one layer.")
    memo: dict[int, Any] = {}
    for name, module in new.items():
        model.set_submodule(name, copy.deepcopy(module, memo) if copies else module)


def describe(layer: nn.Module) -> str:
    """Return class and sizes of a layer in a few words.

    Example:
        >>> describe(nn.Conv2d(8, 8, 3, groups=8))
        'Conv2d(8, 8, 3x3, groups=8)'
    """
    if isinstance(layer, nn.Linear):
        return f"{type(layer).__name__}({layer.in_features}, {layer.out_features})"
    layer_any: Any = layer
    groups = f", groups={layer_any.groups}" if layer_any.groups > 1 else ""
    kernel = "x".join(map(str, layer_any.kernel_size))
    return f"{type(layer).__name__}({layer_any.in_channels}, {layer_any.out_channels}, {kernel}{groups})"


def _numel(weight: Tensor) -> int:
    return 0 if isinstance(weight, nn.parameter.UninitializedParameter) else weight.numel()
