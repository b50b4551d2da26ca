"""BinaryDenseNet: every binary convolution adds 64 channels to what lies before it."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from bnn_lightning.functional.elementwise import concatenate
from bnn_lightning.models.backbone import Stem
from bnn_lightning.models.blocks import LayerFactory
from bnn_lightning.models.conv_blocks import XNORUnit
from bnn_lightning.models.family import (
    Family,
    Variant,
    ZooBackbone,
    keras_init,
    register_family,
    resnet_stem,
)


class DenseLayer(nn.Module):
    """Append `conv(BN(x))` to the channels of x.

    Args:
        in_channels: Channels of x.
        growth: Channels that are appended.
        layers: Makes the convolution.
    """

    def __init__(self, in_channels: int, growth: int, *, layers: LayerFactory) -> None:
        super().__init__()
        self.unit = XNORUnit(in_channels, growth, layers=layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, in_channels + growth, H, W)."""
        return concatenate([x, self.unit(x)])


class BinaryDenseNet(ZooBackbone):
    """A stem, four stages of dense layers, transitions between them, batch norm, ReLU, average, classifier.

    Args:
        width: Channels of the stem, and channels that a layer adds.
        reductions: Divisor of the channels in each transition, to the next multiple of half of `width`.
        depths: Layers of each stage.
        stem: "imagenet" (a quarter of the resolution) or "cifar" (all of it).
        layers: Makes the binary convolutions.
        **frame: As `Backbone` takes it.
    """

    def __init__(
        self,
        *,
        width: int,
        reductions: Sequence[float],
        depths: Sequence[int],
        stem: Stem,
        layers: LayerFactory,
        **frame: Any,
    ) -> None:
        channels, blocks, unit = width, list[nn.Module](), width // 2
        for depth, reduction in zip(depths, (*reductions, None), strict=True):
            blocks += [DenseLayer(channels + width * i, width, layers=layers) for i in range(depth)]
            channels += width * depth
            if reduction is not None:
                out_channels = max(1, round(channels // reduction / unit)) * unit
                conv = nn.Conv2d(channels, out_channels, 1, bias=False)
                blocks.append(nn.Sequential(nn.BatchNorm2d(channels), nn.MaxPool2d(2), nn.ReLU(inplace=True), conv))
                channels = out_channels
        super().__init__(num_features=channels, **frame)
        self.stem = nn.Sequential(*resnet_stem(stem, self.in_channels, width, frame["image_size"]))
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.linear = nn.Linear(channels, self.num_classes)
        keras_init(self, real=nn.init.kaiming_normal_, binary=nn.init.xavier_normal_)


register_family(
    Family(
        title="Build BinaryDenseNet",
        papers="Bethge et al., Back to Simplicity: How to Train Accurate BNNs from Scratch?, 2019.",
        network=BinaryDenseNet,
        clip=1.3,
        widths="Channels of the stem, and channels that a layer adds; an even number",
        multiple=2,
        least=(29, 8),
    ),
    [
        Variant(
            "binarydensenet28",
            (5_131_496, 4_202_496, 3_587_383_296, 202_484_224),
            64,
            (6, 6, 6, 5),
            {"reductions": (2.7, 2.7, 2.2)},
        ),
        Variant(
            "binarydensenet37",
            (8_702_248, 7_593_984, 4_506_808_320, 199_738_368),
            64,
            (6, 8, 12, 6),
            {"reductions": (3.3, 3.3, 4.0)},
        ),
        Variant(
            "binarydensenet45",
            (13_889_512, 12_349_440, 6_430_556_160, 244_103_424),
            64,
            (6, 12, 14, 8),
            {"reductions": (2.7, 3.3, 4.0)},
        ),
    ],
)
