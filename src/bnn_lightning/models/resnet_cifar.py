"""The ResNets of IR-Net and SKD-BNN for CIFAR: 3x3 stem, no pooling after it."""

from collections.abc import Sequence
from functools import partial

from torch import nn

from bnn_lightning.binarizers.base import BinarizerFactory
from bnn_lightning.models.backbone import check_size
from bnn_lightning.models.blocks import (
    Binary,
    DoubleSkipBlock,
    SingleSkipBlock,
    conv_shortcut,
    layer_factory,
    pad_shortcut,
)
from bnn_lightning.models.registry import register_backbone
from bnn_lightning.models.resnet import ResNet
from bnn_lightning.utils.image_size import ImageSize


@register_backbone
def resnet20(
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
    width: int = 16,
) -> ResNet:
    """Build ResNet-20 for CIFAR: three stages of three double-skip blocks, parameter-free shortcuts.

    With 10 classes and 3x32x32 images: 269,850 parameters, 267,264 of them binary; 40,108,032 binary and 443,008 real
    multiply-accumulates. Published names are kept, so SKD-BNN's and IR-Net's files load.

    Args:
        num_classes: Width of the logits.
        in_channels: Channels of the images.
        image_size: Height and width of the images, at least 3.
        mean: Normalization of the images; None leaves them in [0, 1].
        std: See `mean`.
        binary: False builds the float twin: the same network with torch's convolutions; "activations" keeps the
            weights real, the first of two training steps.
        input_binarizer: None takes SignEDE.
        weight_binarizer: None takes Libra.
        pad_value: Padding of the binary convolutions: 0 (published), -1 or +1.
        width: Channels of the first stage, an even number; the others have twice and four times as many.

    Raises:
        ValueError: A value out of range.

    References:
        Qin et al., IR-Net, CVPR 2020; Zeng et al., SKD-BNN, Applied Intelligence 54(6), 2024.
    """
    check_size("image_size", image_size, 3, of="resnet20")
    check_size("width", width, 2, of="resnet20")
    if width % 2:
        raise ValueError(f"`width` must be even for `resnet20` (its shortcuts pad both sides alike), got {width}.")
    layers = layer_factory(binary, input_binarizer, weight_binarizer, pad_value=pad_value)
    network = ResNet(
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        mean=mean,
        std=std,
        stem=(3, 1),
        pool=None,
        widths=(width, 2 * width, 4 * width),
        depth=3,
        block=partial(DoubleSkipBlock, layers=layers, shortcut=pad_shortcut),
    )
    kaiming_init(network)
    return network


@register_backbone
def resnet18(
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
) -> ResNet:
    """Build ResNet-18 for CIFAR: four stages of two single-skip blocks, real 1x1 convolutions as shortcuts.

    With 10 classes and 3x32x32 images: 11,174,986 parameters, 10,985,472 of them binary; 547,356,672 binary and
    8,066,048 real multiply-accumulates.

    Args:
        num_classes: Width of the logits.
        in_channels: Channels of the images.
        image_size: Height and width of the images, at least 5.
        mean: Normalization of the images; None leaves them in [0, 1].
        std: See `mean`.
        binary: False builds the float twin: the same network with torch's convolutions; "activations" keeps the
            weights real, the first of two training steps.
        input_binarizer: None takes SignEDE.
        weight_binarizer: None takes Libra.
        pad_value: Padding of the binary convolutions: 0 (published), -1 or +1.
        width: Channels of the first stage; the others have 2, 4 and 8 times as many.

    Raises:
        ValueError: A value out of range.

    References:
        Qin et al., IR-Net, CVPR 2020; Zeng et al., SKD-BNN, Applied Intelligence 54(6), 2024.
    """
    check_size("image_size", image_size, 5, of="resnet18")
    check_size("width", width, of="resnet18")
    layers = layer_factory(binary, input_binarizer, weight_binarizer, pad_value=pad_value)
    network = ResNet(
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        mean=mean,
        std=std,
        stem=(3, 1),
        pool=None,
        widths=(width, 2 * width, 4 * width, 8 * width),
        depth=2,
        block=partial(SingleSkipBlock, layers=layers, shortcut=conv_shortcut),
    )
    kaiming_init(network)
    return network


def kaiming_init(network: nn.Module) -> None:
    """Initialize every convolution and the classifier's weight in place: fan in, gain sqrt(2), as SKD-BNN does."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
