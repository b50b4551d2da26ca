"""Bi-Real Net: a ResNet with a real-valued skip around every binary convolution."""

from collections.abc import Sequence
from functools import partial

from torch import nn

from bnn_lightning.binarizers.base import BinarizerFactory
from bnn_lightning.models.blocks import Binary, layer_factory
from bnn_lightning.models.conv_blocks import BiRealUnit
from bnn_lightning.models.registry import register_backbone
from bnn_lightning.models.resnet_bnn import Stem, UnitResNet
from bnn_lightning.utils.image_size import ImageSize


@register_backbone
def birealnet18(
    *,
    num_classes: int,
    in_channels: int = 3,
    image_size: ImageSize,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    binary: Binary = True,
    input_binarizer: BinarizerFactory | None = None,
    weight_binarizer: BinarizerFactory | None = None,
    pad_value: float = 0.0,
    width: int = 64,
    stem: Stem = "imagenet",
) -> UnitResNet:
    """Build Bi-Real Net-18: four stages of four units; real 1x1 convolutions after 2x2 averages where a stage begins.

    With 1000 classes and 3x224x224 images: 11,689,512 parameters, 10,985,472 of them binary; 1,676,279,808 binary and
    137,793,536 real multiply-accumulates.

    Args:
        num_classes: Width of the logits.
        in_channels: Channels of the images.
        image_size: Height and width of the images, at least 17, or 5 with the stem for CIFAR.
        mean: Normalization of the images; None leaves them in [0, 1].
        std: See `mean`.
        binary: False builds the float twin: the same network with torch's convolutions; "activations" keeps the
            weights real, the first of two training steps.
        input_binarizer: None takes ApproxSign.
        weight_binarizer: None takes XNORScale with its "detached" gradient, the paper's magnitude-aware one. The
            authors' code has `gradient="identity"`.
        pad_value: Padding of the binary convolutions: 0 (published), -1 or +1.
        width: Channels of the first stage; the others have 2, 4 and 8 times as many.
        stem: "imagenet" (7x7, stride 2, max-pooling) or "cifar" (3x3).

    Raises:
        ValueError: A value out of range.

    References:
        Liu et al., Bi-Real Net, ECCV 2018.
    """
    defaults = BiRealUnit.default_binarizers
    layers = layer_factory(binary, input_binarizer, weight_binarizer, defaults=defaults, pad_value=pad_value)
    return _kaiming(
        UnitResNet(
            "birealnet18",
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
            mean=mean,
            std=std,
            stem=stem,
            width=width,
            depths=(4, 4, 4, 4),
            block=partial(BiRealUnit, layers=layers),
        )
    )


@register_backbone
def birealnet34(
    *,
    num_classes: int,
    in_channels: int = 3,
    image_size: ImageSize,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    binary: Binary = True,
    input_binarizer: BinarizerFactory | None = None,
    weight_binarizer: BinarizerFactory | None = None,
    pad_value: float = 0.0,
    width: int = 64,
    stem: Stem = "imagenet",
) -> UnitResNet:
    """Build Bi-Real Net-34: four stages of 6, 8, 12 and 6 units.

    With 1000 classes and 3x224x224 images: 21,797,672 parameters, 21,086,208 of them binary; 3,525,967,872 binary and
    137,793,536 real multiply-accumulates.

    Args:
        num_classes: Width of the logits.
        in_channels: Channels of the images.
        image_size: Height and width of the images, at least 17, or 5 with the stem for CIFAR.
        mean: Normalization of the images; None leaves them in [0, 1].
        std: See `mean`.
        binary: False builds the float twin: the same network with torch's convolutions; "activations" keeps the
            weights real, the first of two training steps.
        input_binarizer: None takes ApproxSign.
        weight_binarizer: None takes XNORScale with its "detached" gradient, the paper's magnitude-aware one. The
            authors' code has `gradient="identity"`.
        pad_value: Padding of the binary convolutions: 0 (published), -1 or +1.
        width: Channels of the first stage; the others have 2, 4 and 8 times as many.
        stem: "imagenet" (7x7, stride 2, max-pooling) or "cifar" (3x3).

    Raises:
        ValueError: A value out of range.

    References:
        Liu et al., Bi-Real Net, ECCV 2018.
    """
    defaults = BiRealUnit.default_binarizers
    layers = layer_factory(binary, input_binarizer, weight_binarizer, defaults=defaults, pad_value=pad_value)
    return _kaiming(
        UnitResNet(
            "birealnet34",
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
            mean=mean,
            std=std,
            stem=stem,
            width=width,
            depths=(6, 8, 12, 6),
            block=partial(BiRealUnit, layers=layers),
        )
    )


def _kaiming(network: UnitResNet) -> UnitResNet:
    # As He et al. begin a ResNet: the paper starts from a trained real-valued network, and names nothing of its own.
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return network
