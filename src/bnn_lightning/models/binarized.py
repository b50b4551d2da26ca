"""Networks of torchvision and timm with binary layers, behind the interface of our backbones."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from warnings import warn

import torch
from torch import nn

from bnn_lightning.binarizers.base import BinarizerFactory
from bnn_lightning.layers.binarize import binarize as binarize_
from bnn_lightning.models.backbone import Normalize, Stem, choose_stem
from bnn_lightning.models.blocks import Binary, LayerFactory, layer_factory
from bnn_lightning.models.float_teachers import (
    RealNetwork,
    is_rebuilding,
    timm_network,
    torchvision_network,
)
from bnn_lightning.utils.image_size import ImageSize, sides
from bnn_lightning.utils.signature import passes_on

# Classes of the weights that torchvision and timm publish.
_IMAGENET_CLASSES = 1000
# Max-pooling between the first convolution and the stages: of ResNets and ShuffleNets, of DenseNets.
_POOLS = ("maxpool", "features.pool0")


def _binary_network(
    make: Callable[..., RealNetwork],
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    image_size: ImageSize,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    binary: Binary = True,
    input_binarizer: BinarizerFactory | None = None,
    weight_binarizer: BinarizerFactory | None = None,
    binarize: Mapping[str, Any] | None = None,
    stem: Stem | None = None,
    pretrained: bool = False,
    weights: str | None = None,
    **source: Any,
) -> RealNetwork:
    """Build a classifier of another library with `make`, and binarize it; see `binary_torchvision`."""
    network = make(
        name,
        num_classes=_IMAGENET_CLASSES if pretrained and weights is None else num_classes,
        in_channels=in_channels,
        image_size=image_size,
        pretrained=pretrained,
        weights=weights,
        **source,
    )
    layers = layer_factory(binary, input_binarizer, weight_binarizer, defaults=("ApproxSign", "XNORScale"))
    _fit_data(network, num_classes, None if pretrained or weights else (mean, std))
    return _binarized(name, network, layers, binary, binarize or {}, stem)


@passes_on(_binary_network)
def binary_torchvision(name: str, *, version: str = "IMAGENET1K_V1", **options: Any) -> RealNetwork:
    """Build a classifier of torchvision with binary layers in place of its convolutions and linear layers.

    Args:
        name: As torchvision has it: resnet18, mobilenet_v3_large, convnext_tiny ...
        version: Name of the weights.
        num_classes: Width of the logits.
        in_channels: 3, or 1 for gray images.
        image_size: Height and width of the images.
        mean: Normalization of the images; with `pretrained` or `weights` it is that of ImageNet instead.
        std: See `mean`.
        binary: False builds the float twin, with the same tensors and torch's arithmetic; "activations" keeps the
            weights real.
        input_binarizer: None takes ApproxSign.
        weight_binarizer: None takes XNORScale.
        binarize: `activation`, `keep`, `rules` and `pad_value` of `bnn_lightning.binarize`; rules match the names that
            `bnn profile` prints, such as `body.layer4.*`.
        stem: "cifar": the first convolution has stride 1 (2 where it was 4), and no max-pooling follows; "imagenet":
            as it is. None: "cifar" for images of up to 64 pixels.
        pretrained: Start from torchvision's weights; for other than 1000 classes the classifier starts anew.
        weights: A file with weights for `num_classes` classes, instead of torchvision's own.
        **options: The arguments after `version`.

    Raises:
        ValueError: An unknown name, an option that `binarize` refuses, images that the network does not take, or
            binary layers of which none sees a negative value.
        FileNotFoundError: The weights are not at hand.

    Example:
        >>> network = binary_torchvision("resnet18", num_classes=10, image_size=32)
        >>> type(network.body.layer1[0].conv1).__name__, network.body.conv1.stride
        ('BinaryConv2d', (1, 1))
    """
    return _binary_network(torchvision_network, name, version=version, **options)


@passes_on(_binary_network)
def binary_timm(name: str, **options: Any) -> RealNetwork:
    """Build a classifier of timm with binary layers in place of its convolutions and linear layers.

    Args:
        name: As timm has it: resnet18, convnext_tiny.fb_in1k ...
        **options: As `binary_torchvision` takes them, without `version`; `weights` may be a file of safetensors.

    Raises:
        ModuleNotFoundError: timm is not installed.
        ValueError: See `binary_torchvision`.
        FileNotFoundError: The weights are not at hand.
    """
    return _binary_network(timm_network, name, **options)


def _fit_data(
    network: RealNetwork, num_classes: int, constants: tuple[Sequence[float] | None, Sequence[float] | None] | None
) -> None:
    """Give a network the normalization of the data, and a new classifier where its own is for other classes."""
    if constants is not None:
        gray = 3 if network.in_channels == 1 else 1
        mean, std = (None if values is None else list(values) * gray for values in constants)
        network.normalize = Normalize(mean, std, 3)
    if num_classes != network.num_classes:
        network.reset_classifier(num_classes)
    body: Any = network.body
    if getattr(body, "aux_logits", False):  # of GoogLeNet and Inception: in training they return several logits
        body.aux_logits = False
        for child in [child for child, _ in body.named_children() if child.lower().startswith("aux")]:
            setattr(body, child, None)


def _binarized(
    name: str,
    network: RealNetwork,
    layers: LayerFactory,
    binary: Binary,
    options: Mapping[str, Any],
    stem: Stem | None,
) -> RealNetwork:
    small = choose_stem(stem, network.image_size) == "cifar"
    unknown = sorted(set(options) - {"activation", "keep", "rules", "pad_value"})
    if unknown:
        raise ValueError(f"`binarize` has no option `{unknown[0]}`. It has: activation, keep, rules, pad_value.")
    if small:
        _shrink_stem(network.body)
    rules = options.get("rules") or {}
    if isinstance(rules, Mapping):
        rules = {pattern: _rule(rule, binary) for pattern, rule in rules.items()}
    network_options = {key: value for key, value in options.items() if value is not None or key == "activation"}
    on_meta = network.linear.weight.is_meta
    report = binarize_(
        network,
        **{**network_options, "rules": rules},
        input_binarizer=layers.input_binarizer,
        weight_binarizer=layers.weight_binarizer,
        example=None if is_rebuilding() else _example(network, on_meta),
    )
    if report.constant and set(report.constant) == set(report.binary):
        by_option = options.get("activation", "PReLU") is None
        why, remedy = (
            ("`binarize.activation=null` keeps the ReLUs before them", 'take binarize.activation="PReLU"')
            if by_option
            else ("it calls ReLUs as functions, which cannot be exchanged", "take another network")
        )
        raise ValueError(
            f"No binary layer of `{name}` sees both negative and other values: {why}. None can learn: {remedy}."
        )
    if report.constant:
        warn(
            f"`{name}`: inputs of one sign, from which nothing is learned: {', '.join(report.constant)}. Keep these "
            "layers real with `binarize.rules`.",
            stacklevel=3,
        )
    return network


def _rule(rule: Any, binary: Binary) -> Any:
    """Return a rule without the binarizers that a float twin, or a network with real weights, has not."""
    if not isinstance(rule, Mapping) or binary is True:
        return rule
    dropped = ("weight_binarizer",) if binary else ("input_binarizer", "weight_binarizer", "pad_value")
    return {key: value for key, value in rule.items() if key not in dropped}


def _example(network: RealNetwork, on_meta: bool) -> torch.Tensor:
    shape = (2, network.in_channels, *sides(network.image_size))
    if on_meta:
        return torch.zeros(shape, device="meta")
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _shrink_stem(body: nn.Module) -> None:
    """Let the first convolution and the pooling after it keep the resolution of small images, in place.

    A stem may have several branches that see the image (RepVGG, MobileOne), which keep one resolution.
    """
    convs = [module for module in body.modules() if isinstance(module, nn.Conv2d)]
    branches = [conv for conv in convs if (conv.in_channels, conv.stride) == (convs[0].in_channels, convs[0].stride)]
    for conv in branches:
        if max(conv.stride) <= 4:
            conv.stride = (1, 1) if max(conv.stride) <= 2 else (2, 2)
    names = dict(body.named_modules())
    for name in _POOLS:
        if isinstance(names.get(name), nn.MaxPool2d):
            body.set_submodule(name, nn.Identity())
