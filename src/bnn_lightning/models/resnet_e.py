"""BinaryResNet-E: Bi-Real Net's units with larq's signs, a second batch norm in the stem, ReLU before the average."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from bnn_lightning.layers.conv import BinaryConv2d
from bnn_lightning.models.backbone import Stem
from bnn_lightning.models.blocks import LayerFactory
from bnn_lightning.models.conv_blocks import BiRealUnit
from bnn_lightning.models.family import (
    Family,
    Variant,
    ZooBackbone,
    keras_init,
    register_family,
    resnet_stem,
)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Make averages over whole 2x2 windows, a real 1x1 convolution and batch norm; the identity where shapes allow."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return nn.Sequential(nn.AvgPool2d(2), conv, nn.BatchNorm2d(out_channels))


class _SameLayers(LayerFactory):
    """Layers whose convolutions with stride 2 pad below and on the right alone, as TensorFlow does on even sides."""

    def conv(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> BinaryConv2d:
        layer = super().conv(in_channels, out_channels, kernel_size, stride)
        if stride == 1:
            return layer
        return BinaryConv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            (0, 1, 0, 1),
            bias=False,
            input_binarizer=layer.input_binarizer,
            weight_binarizer=layer.weight_binarizer,
            pad_value=layer.pad_value,
        )


class ResNetE(ZooBackbone):
    """A stem, four stages of units, ReLU, global average, linear classifier.

    Args:
        width: Channels of the first stage; the others have 2, 4 and 8 times as many.
        depths: Blocks of two units of each stage.
        stem: "imagenet" (a quarter of the resolution) or "cifar" (all of it).
        layers: Makes the binary convolutions.
        **frame: As `Backbone` takes it.
    """

    def __init__(self, *, width: int, depths: Sequence[int], stem: Stem, layers: LayerFactory, **frame: Any) -> None:
        super().__init__(num_features=width << (len(depths) - 1), **frame)
        more = [nn.BatchNorm2d(width)] if stem == "imagenet" else []
        self.stem = nn.Sequential(*resnet_stem(stem, self.in_channels, width, frame["image_size"]), *more)
        same = _SameLayers(layers.input_binarizer, layers.weight_binarizer, layers.pad_value)
        unit = partial(BiRealUnit, layers=same, shortcut=_shortcut)
        self.blocks, channels = nn.Sequential(), width
        for stage, depth in enumerate(depths):
            for index in range(2 * depth):
                stride = 2 if stage and not index else 1
                self.blocks.append(unit(channels, width << stage, stride))
                channels = width << stage
        self.last = nn.ReLU()
        self.linear = nn.Linear(channels, self.num_classes)
        keras_init(self, real=nn.init.kaiming_normal_, binary=nn.init.xavier_normal_)


register_family(
    Family(
        title="Build BinaryResNet-E",
        papers="Bethge et al., Back to Simplicity: How to Train Accurate BNNs from Scratch?, 2019.",
        network=ResNetE,
        clip=1.25,
        widths="Channels of the first stage; the others have 2, 4 and 8 times as many",
        multiple=1,
        least=(29, 8),
    ),
    [
        Variant(
            "binary_resnet_e18",
            (11_689_640, 10_985_472, 1_676_279_808, 137_793_536),
            64,
            (2, 2, 2, 2),
            {},
        ),
    ],
)
