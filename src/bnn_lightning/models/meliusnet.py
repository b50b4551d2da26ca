"""MeliusNet: a dense layer adds 64 channels, an improvement layer adds to these."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from bnn_lightning.functional.elementwise import concatenate
from bnn_lightning.models.backbone import Stem
from bnn_lightning.models.blocks import LayerFactory
from bnn_lightning.models.conv_blocks import XNORUnit
from bnn_lightning.models.family import (
    Family,
    Size,
    Variant,
    ZooBackbone,
    halved,
    keras_init,
    register_family,
    same_conv,
)


class MeliusBlock(nn.Module):
    """Append `w = dense(x)` to the channels of x, and add `improve([x, w])` to w.

    Args:
        in_channels: Channels of x.
        growth: Channels that are appended.
        layers: Makes the convolutions.
    """

    def __init__(self, in_channels: int, growth: int, *, layers: LayerFactory) -> None:
        super().__init__()
        self.dense = XNORUnit(in_channels, growth, layers=layers)
        self.improve = XNORUnit(in_channels + growth, growth, layers=layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, in_channels + growth, H, W)."""
        added = self.dense(x)
        return concatenate([x, self.improve(concatenate([x, added])) + added])


def _pool() -> nn.Module:
    return nn.MaxPool2d(2, ceil_mode=True)


def _stem(stem: Stem, in_channels: int, width: int, size: Size) -> nn.Module:
    """Make three 3x3 convolutions, two of them in groups, each with batch norm and ReLU, and maxima of 2x2."""
    large, half = stem == "imagenet", width // 2
    size_after = halved(size) if large else size
    convs = (
        same_conv(size, in_channels, half, 3, 2 if large else 1),
        same_conv(size_after, half, half, 3, groups=half // 8),
        same_conv(size_after, half, width, 3, groups=half // 4),
    )
    layers: list[nn.Module] = []
    for conv, channels in zip(convs, (half, half, width), strict=True):
        layers += [conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, _pool() if large else nn.Identity())


class MeliusNet(ZooBackbone):
    """A stem, four stages of blocks, transitions between them, batch norm, ReLU, average, classifier.

    Args:
        width: Channels of the stem, and channels that a block adds.
        transitions: Channels behind each transition, in halves of `width`.
        depths: Blocks of each stage.
        stem: "imagenet" (a quarter of the resolution) or "cifar" (all of it).
        layers: Makes the binary convolutions.
        **frame: As `Backbone` takes it.
    """

    def __init__(
        self,
        *,
        width: int,
        transitions: Sequence[int],
        depths: Sequence[int],
        stem: Stem,
        layers: LayerFactory,
        **frame: Any,
    ) -> None:
        channels, blocks = width, list[nn.Module]()
        for depth, halves in zip(depths, (*transitions, None), strict=True):
            blocks += [MeliusBlock(channels + width * i, width, layers=layers) for i in range(depth)]
            channels += width * depth
            if halves is not None:
                out_channels = halves * width // 2
                conv = nn.Conv2d(channels, out_channels, 1, bias=False)
                blocks.append(nn.Sequential(nn.BatchNorm2d(channels), _pool(), nn.ReLU(inplace=True), conv))
                channels = out_channels
        super().__init__(num_features=channels, **frame)
        self.stem = _stem(stem, self.in_channels, width, frame["image_size"])
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.linear = nn.Linear(channels, self.num_classes)
        keras_init(self, real=nn.init.xavier_normal_, binary=nn.init.xavier_normal_)


register_family(
    Family(
        title="Build MeliusNet",
        papers="Bethge et al., MeliusNet: Can Binary Neural Networks Achieve MobileNet-level Accuracy?, WACV 2021.",
        network=MeliusNet,
        clip=1.3,
        widths="Channels of the stem, and channels that a block adds; a multiple of 16",
        multiple=16,
        least=(17, 5),
    ),
    [
        Variant(
            "meliusnet22",
            (6_944_584, 6_119_424, 4_624_220_160, 136_388_608),
            64,
            (4, 5, 4, 4),
            {"transitions": (5, 7, 8)},
        ),
    ],
)
