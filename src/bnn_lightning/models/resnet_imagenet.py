"""The ResNet of SKD-BNN for ImageNet: 7x7 stem and max-pooling, double skips."""

import math
from collections.abc import Sequence
from functools import partial

from torch import nn

from bnn_lightning.binarizers.base import BinarizerFactory
from bnn_lightning.models.backbone import check_size
from bnn_lightning.models.blocks import Binary, DoubleSkipBlock, conv_shortcut, layer_factory
from bnn_lightning.models.registry import register_backbone
from bnn_lightning.models.resnet import ResNet
from bnn_lightning.utils.image_size import ImageSize


@register_backbone
def resnet18_double_skip(
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
    """Build SKD-BNN's ResNet-18 for ImageNet: four stages of two double-skip blocks, real 1x1 shortcuts.

    With 1000 classes and 3x224x224 images: 11,690,536 parameters, 10,985,472 of them binary; 1,676,279,808 binary and
    137,793,536 real multiply-accumulates.

    Args:
        num_classes: Width of the logits.
        in_channels: Channels of the images.
        image_size: Height and width of the images, at least 17.
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
        Zeng et al., SKD-BNN, Applied Intelligence 54(6), 2024; Liu et al., Bi-Real Net, ECCV 2018.
    """
    check_size("image_size", image_size, 17, of="resnet18_double_skip")
    check_size("width", width, of="resnet18_double_skip")
    layers = layer_factory(binary, input_binarizer, weight_binarizer, pad_value=pad_value)
    network = ResNet(
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        mean=mean,
        std=std,
        stem=(7, 2),
        pool=nn.MaxPool2d(3, 2, 1),
        widths=(width, 2 * width, 4 * width, 8 * width),
        depth=2,
        block=partial(DoubleSkipBlock, layers=layers, shortcut=conv_shortcut),
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    return network
