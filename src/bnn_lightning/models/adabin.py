"""The networks of AdaBin for CIFAR: those of SKD-BNN with double skips and a nonlinearity of two learnable slopes."""

from collections.abc import Sequence
from functools import partial

from bnn_lightning.binarizers.base import BinarizerFactory
from bnn_lightning.layers.activation import Maxout
from bnn_lightning.models.backbone import check_size
from bnn_lightning.models.blocks import (
    Binary,
    DoubleSkipBlock,
    LayerFactory,
    conv_shortcut,
    layer_factory,
    pad_shortcut,
)
from bnn_lightning.models.registry import register_backbone
from bnn_lightning.models.resnet import ResNet
from bnn_lightning.models.resnet_cifar import kaiming_init
from bnn_lightning.models.vgg_small import VGGSmall, init_vgg
from bnn_lightning.utils.image_size import ImageSize


def _layers(
    binary: Binary,
    input_binarizer: BinarizerFactory | None,
    weight_binarizer: BinarizerFactory | None,
    pad_value: float,
) -> LayerFactory:
    defaults = ("AdaBinInput", "AdaBinWeights")
    return layer_factory(binary, input_binarizer, weight_binarizer, defaults=defaults, pad_value=pad_value)


@register_backbone
def resnet20_adabin(
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
    """Build AdaBin's ResNet-20: `resnet20` with `Maxout` in the place of Hardtanh.

    Args:
        num_classes: Width of the logits.
        in_channels: Channels of the images.
        image_size: Height and width of the images, at least 3.
        mean: Normalization of the images; None leaves them in [0, 1].
        std: See `mean`.
        binary: False builds the float twin: the same network with torch's convolutions; "activations" keeps the
            weights real, the first of two training steps.
        input_binarizer: None takes AdaBinInput.
        weight_binarizer: None takes AdaBinWeights.
        pad_value: Padding of the binary convolutions: 0 (published), -1 or +1.
        width: Channels of the first stage, an even number; the others have twice and four times as many.

    Raises:
        ValueError: A value out of range.

    References:
        Tu et al., AdaBin, ECCV 2022.
    """
    check_size("image_size", image_size, 3, of="resnet20_adabin")
    check_size("width", width, 2, of="resnet20_adabin")
    if width % 2:
        raise ValueError(
            f"`width` must be even for `resnet20_adabin` (its shortcuts pad both sides alike), got {width}."
        )
    layers = _layers(binary, input_binarizer, weight_binarizer, pad_value)
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
        block=partial(DoubleSkipBlock, layers=layers, shortcut=pad_shortcut, activation=Maxout),
        activation=Maxout,
    )
    kaiming_init(network)
    return network


@register_backbone
def resnet18_adabin(
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
    """Build AdaBin's ResNet-18 for CIFAR: `resnet18` with double skips, and `Maxout` in the place of Hardtanh.

    Args:
        num_classes: Width of the logits.
        in_channels: Channels of the images.
        image_size: Height and width of the images, at least 5.
        mean: Normalization of the images; None leaves them in [0, 1].
        std: See `mean`.
        binary: False builds the float twin: the same network with torch's convolutions; "activations" keeps the
            weights real, the first of two training steps.
        input_binarizer: None takes AdaBinInput.
        weight_binarizer: None takes AdaBinWeights.
        pad_value: Padding of the binary convolutions: 0 (published), -1 or +1.
        width: Channels of the first stage; the others have 2, 4 and 8 times as many.

    Raises:
        ValueError: A value out of range.

    References:
        Tu et al., AdaBin, ECCV 2022.
    """
    check_size("image_size", image_size, 5, of="resnet18_adabin")
    check_size("width", width, of="resnet18_adabin")
    layers = _layers(binary, input_binarizer, weight_binarizer, pad_value)
    return ResNet(
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        mean=mean,
        std=std,
        stem=(3, 1),
        pool=None,
        widths=(width, 2 * width, 4 * width, 8 * width),
        depth=2,
        block=partial(DoubleSkipBlock, layers=layers, shortcut=conv_shortcut, activation=Maxout),
        activation=Maxout,
    )


@register_backbone
def vgg_small_adabin(
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
    width: int = 128,
) -> VGGSmall:
    """Build VGG-Small with AdaBin's layers, and `Maxout` in the place of Hardtanh; the paper's code has no such file.

    Args:
        num_classes: Width of the logits.
        in_channels: Channels of the images.
        image_size: Height and width of the images, at least 8.
        mean: Normalization of the images; None leaves them in [0, 1].
        std: See `mean`.
        binary: False builds the float twin: the same network with torch's convolutions; "activations" keeps the
            weights real, the first of two training steps.
        input_binarizer: None takes AdaBinInput.
        weight_binarizer: None takes AdaBinWeights.
        pad_value: Padding of the binary convolutions: 0 (published), -1 or +1.
        width: Channels of the first two layers; then come two layers of twice and two of four times as many.

    Raises:
        ValueError: A value out of range.

    References:
        Tu et al., AdaBin, ECCV 2022.
    """
    check_size("image_size", image_size, 8, of="vgg_small_adabin")
    check_size("width", width, of="vgg_small_adabin")
    network = VGGSmall(
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        mean=mean,
        std=std,
        width=width,
        layers=_layers(binary, input_binarizer, weight_binarizer, pad_value),
        activation=Maxout,
    )
    return init_vgg(network)
