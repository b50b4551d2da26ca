"""BNext-18: BNext's units on the skeleton of ResNet-18."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from bnn_lightning.binarizers.factory import binarizer_factory
from bnn_lightning.layers.activation import PReLU
from bnn_lightning.models.backbone import Stem, check_image_size, check_size, choose_stem
from bnn_lightning.models.blocks import LayerFactory, halve
from bnn_lightning.models.bnext import CLIPPED_RSIGN, BNextFrame, init_latent_
from bnn_lightning.models.bnext_units import BNextUnit, RealLayers, real_layers
from bnn_lightning.models.builder import register_binary

# Its weights are signs at temperatures below this, which 0.9^epoch reaches in epoch 110 of 512.
THRESHOLD = 1e-5
BINARY_FROM = math.log(THRESHOLD) / (512 * math.log(0.9))


class BNext18Block(nn.Sequential):
    """ELM-Attention with the stride and the change of width, then FFN, both 3x3.

    The shortcut of the first is PReLU, and where the shape changes average pooling, a real 1x1 convolution and batch
    norm after it.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: 1 or 2.
        elm: False makes the first unit FFN, too.
        real: Makes the layers that are not binary.
        **options: As `BNextUnit` takes them.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, *, elm: bool, real: RealLayers, **options: Any
    ) -> None:
        shortcut: nn.Module = nn.Identity()
        if stride == 2 or in_channels != out_channels:
            shortcut = nn.Sequential(
                halve(stride), real.shortcut(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels)
            )
        unit: Callable[..., nn.Module] = partial(BNextUnit, mix_shortcut=True, real=real, **options)
        super().__init__(
            unit(in_channels, out_channels, 3, stride, shortcut=shortcut, multiply=elm),
            unit(out_channels, out_channels, 3, shortcut=nn.Identity(), multiply=False),
        )


class BNext18(BNextFrame):
    """BNext-18: a real stem, four stages of two blocks, PReLU, global average, linear classifier.

    Args:
        width: Channels of the first stage.
        stem: "imagenet" is a 7x7 convolution of stride 2 and max-pooling, "cifar" a 3x3 convolution.
        elm: See `BNext18Block`.
        layers: Makes the binary convolutions.
        real: Makes the others.
        recoupling: See `BNextConv`.
        latent_std: Standard deviation of the initial latent weights.
        **frame: As `Backbone` takes it.
    """

    def __init__(
        self,
        *,
        width: int,
        stem: Stem,
        elm: bool,
        layers: LayerFactory,
        real: RealLayers,
        recoupling: bool,
        latent_std: float,
        **frame: Any,
    ) -> None:
        super().__init__(num_features=8 * width, **frame)
        large = stem == "imagenet"
        kernel_size, stride = (7, 2) if large else (3, 1)
        self.conv1 = real.stem(self.in_channels, width, kernel_size, stride, kernel_size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        self.blocks = nn.Sequential()
        channels = width
        for stage in range(4):
            for index in range(2):
                after, stride = 2**stage * width, 2 if stage > 0 and index == 0 else 1
                block = BNext18Block(channels, after, stride, elm=elm, layers=layers, real=real, recoupling=recoupling)
                self.blocks.append(block)
                channels = after
        self.act = PReLU(channels)
        self.linear = real.linear(channels, self.num_classes)
        init_latent_(self, latent_std)


@register_binary(CLIPPED_RSIGN, binarizer_factory("TemperatureSign", binary_from=BINARY_FROM, threshold=THRESHOLD))
def bnext18(
    layers: LayerFactory,
    *,
    width: int = 64,
    stem: Stem | None = None,
    elm: bool = True,
    recoupling: bool = True,
    latent_std: float = 1e-3,
    quant: bool = False,
    se_bits: int = 8,
    **frame: Any,
) -> BNext18:
    """Build BNext-18: four stages of two blocks, each an ELM-Attention and an FFN unit of 3x3 convolutions.

    With 1000 classes, 3x224x224 images and the ImageNet stem: 12,062,728 parameters, 10,985,472 of them binary;
    1,676,279,808 binary and 138,141,696 real multiply-accumulates. The published count has 1,920 parameters more, which
    never receive a gradient: PReLUs that are made and not used.

    Args:
        layers: Makes the binary layers.
        image_size: Height and width of the images: at least 17 with the ImageNet stem and 5 with the other.
        input_binarizer: None takes RSign with the clipped identity of half width 1.5 as gradient.
        weight_binarizer: None takes TemperatureSign with a threshold of 1e-5: binary at progress 0.2.
        width: Channels of the first stage; the others have 2, 4 and 8 times as many.
        stem: "imagenet" is a 7x7 convolution of stride 2 and max-pooling, "cifar" a 3x3 convolution; None takes "cifar"
            for images of up to 64 pixels.
        elm: Multiply with the shortcut in the first unit of a block (element-wise attention).
        recoupling: Gate each binary convolution by a blend of its output and the shortcut; without, there are no gates.
        latent_std: Standard deviation of the initial latent weights.
        quant: Train with the rounding of 8-bit stem, shortcuts and classifier and of `se_bits`-bit gates, whose inputs
            have twice as many.
        se_bits: Bits of the weights of the gates, where `quant`.
        **frame: As `Backbone` takes it.

    Raises:
        ValueError: A value out of range.

    References:
        Guo et al., Join the High Accuracy Club on ImageNet with A Binary Neural Network Ticket, 2022.
    """
    check_size("image_size", frame["image_size"])
    chosen = choose_stem(stem, frame["image_size"])
    check_image_size(frame["image_size"], chosen, (17, 5), of="bnext18")
    check_size("width", width, of="bnext18")
    return BNext18(
        width=width,
        stem=chosen,
        elm=elm,
        layers=layers,
        real=real_layers(quant, se_bits, 2 * se_bits),
        recoupling=recoupling,
        latent_std=latent_std,
        **frame,
    )
