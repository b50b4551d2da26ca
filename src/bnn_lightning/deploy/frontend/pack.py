"""From a trained network to one of packed layers."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bnn_lightning.binarizers.base import Binarizer, InputBinarizer, WeightBinarizer
from bnn_lightning.deploy.frontend.conv_transpose import PackedConvTranspose2d, why_no_convolution
from bnn_lightning.deploy.frontend.finite import refuse_nan
from bnn_lightning.deploy.frontend.fresh import CPU, floats
from bnn_lightning.deploy.frontend.layers import PackedConv1d, PackedConv2d, PackedLinear, signs_and_scale
from bnn_lightning.layers.binary import BinaryLayer
from bnn_lightning.layers.conv import BinaryConv, BinaryConv1d, BinaryConv2d
from bnn_lightning.layers.conv_transpose import BinaryConvTranspose2d
from bnn_lightning.layers.linear import BinaryLinear
from bnn_lightning.layers.module_utils import binary_layers, copy_network
from bnn_lightning.utils.image_size import sides

# Layers that have a packed form.
_KINDS = (BinaryConv1d, BinaryConv2d, BinaryConvTranspose2d, BinaryLinear)
# The methods of layers that say what a packed layer computes; one that has others stays as it is.
_STEPS = (
    *("forward", "binary_forward", "scaled_dot", "binarized_weight", "times_gain", "add_centers", "dot", "pad"),
    *("input_sums", "tap_sums", "filters", "from_filters", "per_channel"),
)


@dataclass(frozen=True)
class PackedLayers:
    """The result of `pack_layers`.

    Attributes:
        network: A copy of the network, with packed layers in it.
        packed: Names of the layers that run on bits.
        left: Names of binary layers that are not packed, and why.
    """

    network: nn.Module
    packed: tuple[str, ...]
    left: dict[str, str]


@torch.inference_mode(False)  # changes of tensors of inference mode are not counted
@torch.no_grad()
def pack_layers(model: nn.Module) -> PackedLayers:
    """Replace the binary layers of a trained network, in a copy in evaluation, by layers on bits.

    Args:
        model: Any network built from our layers. It is not changed.

    Raises:
        ValueError: See `pack`.
        TypeError: It is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")
    check_binary(model)
    refuse_nan(model)
    network = copy_network(model).eval()
    packed: list[str] = []
    left: dict[str, str] = {}
    made: dict[int, nn.Module] = {}
    for name, layer in binary_layers(network).items():
        reason = why_left(layer)
        if reason or layer.input_binarizer is None:
            left[name] = reason or "its input is real"
            if not reason:
                _settle(layer)
            continue
        made[id(layer)] = _packed(layer, name)
        packed.append(name)
    replace_layers(network, made)
    refuse_nan(network)
    return PackedLayers(network, tuple(packed), left)


def check_binary(model: nn.Module) -> None:
    """Refuse a network that is not binary yet.

    Raises:
        ValueError: Names the binarizers that still give other values than -1 and +1, or says that there are none.
    """
    unfinished = [
        name for name, module in model.named_modules() if isinstance(module, Binarizer) and not module.is_binary
    ]
    if unfinished:
        raise ValueError(
            f"The network is not binary: the annealing of {unfinished[0]} and {len(unfinished) - 1} more has not "
            "ended. Train to the end of the schedule, or take a later checkpoint."
        )
    layers = binary_layers(model)
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no binary layer: pack one that was built with binary=True, or from "
            "BinaryConv2d and BinaryLinear."
        )
    for name, layer in layers.items():
        if layer.weight.dtype != torch.float32:
            raise ValueError(
                f"The weights of `{name}` are {layer.weight.dtype}: pack the network in float32, as `model.float()`."
            )
        _refuse_other_values(name, layer)


def _refuse_other_values(name: str, layer: BinaryLayer) -> None:
    """Refuse a layer whose binarizers stand for values that packed layers do not have.

    Raises:
        ValueError: Names the layer and its binarizer.
    """
    inputs, weights = layer.input_binarizer, layer.weight_binarizer
    for binarizer in (inputs, weights):
        if binarizer is not None and not binarizer.gives_signs:
            raise ValueError(
                f"`{name}` can be neither packed nor written as ONNX: {type(binarizer).__name__} has "
                f"{binarizer.bits}-bit values, and these multiply -1 and +1 only. Evaluate the network in torch."
            )
    if inputs is None and weights is not None and weights.offset(layer.filters(layer.weight)) is not None:
        raise ValueError(
            f"`{name}` can be neither packed nor written as ONNX: the weights of {type(weights).__name__} lie around a "
            "center, and its input is real. Evaluate the network in torch."
        )


def is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module computes what one of these classes does: no `forward` of its own, no hooks.

    Example:
        >>> class Loud(nn.PReLU):
        ...     def forward(self, input: Tensor) -> Tensor:
        ...         return 2 * super().forward(input)
        >>> is_plain(nn.PReLU(), nn.PReLU), is_plain(Loud(), nn.PReLU)
        (True, False)
    """
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        return False
    return any(
        isinstance(module, kind) and (type(module).forward, type(module).__call__) == (kind.forward, kind.__call__)
        for kind in kinds
    )


def why_left(layer: BinaryLayer) -> str:
    """Say why a layer does not compute what a packed one would, or nothing."""
    if not isinstance(layer, _KINDS):
        return f"{type(layer).__name__} has no packed form, unlike {', '.join(kind.__name__ for kind in _KINDS)}"
    if reason := why_other(layer, *_KINDS):
        return reason
    if layer.input_binarizer is not None and isinstance(layer, BinaryConvTranspose2d):
        return why_no_convolution(layer)
    return ""


def why_other(layer: BinaryLayer, *kinds: type[BinaryLayer]) -> str:
    """Say why a layer does not compute what one of these classes does with a threshold and signs, or nothing."""
    kind = next((kind for kind in kinds if isinstance(layer, kind)), None)
    if kind is None:
        return f"it is none of {', '.join(kind.__name__ for kind in kinds)}"
    if not is_plain(layer, kind):
        return "it has a `forward` or hooks of its own"
    steps = (name for name in _STEPS if hasattr(kind, name))
    if any(name in vars(layer) or getattr(type(layer), name) is not getattr(kind, name) for name in steps):
        return "it multiplies in a way of its own"
    if layer.input_binarizer is not None and not _is_threshold(layer.input_binarizer, layer):
        return "its input binarizer is not +1 from its `threshold()` on and -1 below, for each value by itself"
    return ""


def _is_threshold(binarizer: InputBinarizer, layer: BinaryLayer) -> bool:
    """Whether a binarizer compares each value with its threshold; tried on values far from it, at it and just below."""
    channels = layer.weight.shape[1]
    if isinstance(layer, BinaryConv | BinaryConvTranspose2d):
        channels = layer.in_channels
    threshold = binarizer.threshold()
    level = layer.weight.new_zeros(channels) if threshold is None else threshold.detach().expand(channels)
    below = torch.nextafter(level, torch.full_like(level, -torch.inf))
    spread = torch.linspace(-8, 8, 61, dtype=level.dtype, device=level.device)[:, None].expand(-1, channels)
    tried = torch.cat([spread + level, spread, torch.stack([level, below])])
    values = tried.view(*tried.shape, *[1] * (layer.weight.dim() - 2))
    signs = (2 * (tried >= level).to(tried.dtype) - 1).view_as(values)
    try:
        # In two companies: none depends on what else is there.
        return torch.equal(binarizer(values), signs) and torch.equal(binarizer(values[-7:]), signs[-7:])
    except (IndexError, RuntimeError, TypeError, ValueError):
        return False


def _packed(layer: BinaryLayer, name: str) -> nn.Module:
    try:
        if isinstance(layer, BinaryConv1d):
            return PackedConv1d.from_layer(layer)
        if isinstance(layer, BinaryConv2d):
            return PackedConv2d.from_layer(layer)
        if isinstance(layer, BinaryConvTranspose2d):
            return PackedConvTranspose2d.from_layer(layer)
        if isinstance(layer, BinaryLinear):
            return PackedLinear.from_linear(layer)
    except ValueError as error:
        raise ValueError(f"`{name}`: {error}") from error
    raise ValueError(f"`{name}` is a {type(layer).__name__}; it cannot be packed.")


def replace_layers(network: nn.Module, made: Mapping[int, nn.Module]) -> None:
    """Put layers in the places of others, in place; a shared one in all of them.

    Args:
        network: Any network.
        made: New layers by `id` of the old ones.
    """
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in made:
                parent._modules[name] = made[id(child)]


def _settle(layer: BinaryLayer) -> None:
    """Let a binary layer with real inputs multiply with its signs times its scale, without binarizing in each call."""
    signs, scale = signs_and_scale(layer)
    layer.weight = nn.Parameter(layer.from_filters(signs).clone(), requires_grad=False)
    layer.weight_binarizer = None if scale is None else Settled(scale)


class Settled(WeightBinarizer):
    """Weights that are signs already, and the scale that follows them."""

    fixed: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("fixed", scale.clone())

    def scale(self, weight: Tensor) -> Tensor:
        return self.fixed

    def forward(self, weight: Tensor) -> Tensor:
        return weight


def example_images(model: nn.Module, number: int = 1) -> Tensor:
    """Return images of the size that a backbone takes, (number, C, H, W), the same at each call.

    Raises:
        ValueError: The network does not say what it takes.
    """
    channels, size = getattr(model, "in_channels", None), getattr(model, "image_size", None)
    if not isinstance(channels, int) or not isinstance(size, int | tuple):
        raise ValueError(
            f"`example` must be given for {type(model).__name__}, which does not say what images it takes by "
            "`in_channels` and `image_size`; on the command line the data say it, and packed files are for images."
        )
    parameter = next(model.parameters(), floats(0))
    generator = torch.Generator(CPU).manual_seed(0)  # that of the process is the caller's
    images = torch.rand(number, channels, *sides(size), generator=generator, dtype=torch.float32, device=CPU)
    return images.to(parameter.device, parameter.dtype)


def is_settled(layer: nn.Module) -> bool:
    """Whether a binary layer with real inputs multiplies with signs that were written into it."""
    real = isinstance(layer, BinaryLayer)
    return real and (not layer.is_binary_layer or isinstance(layer.weight_binarizer, Settled))
