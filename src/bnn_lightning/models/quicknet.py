"""QuickNet, larq-zoo's own networks: a skip around every binary convolution, antialiased transitions."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.layers.pool import BlurPool2d
from bnn_lightning.models.backbone import Stem
from bnn_lightning.models.blocks import LayerFactory
from bnn_lightning.models.conv_blocks import Unit
from bnn_lightning.models.family import (
    Family,
    Size,
    Variant,
    ZooBackbone,
    halved,
    keras_init,
    register_family,
    same_conv,
    same_padding,
    sign_binarizers,
)

# Keras' own batch norm, where larq-zoo states no other.
_norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)


class QuickNetUnit(Unit):
    """QuickNet's unit: `BN(ReLU(conv(x))) + x`.

    Args:
        channels: Channels of input and output.
        layers: Makes the convolution.
    """

    default_binarizers = sign_binarizers(1.25)

    def __init__(self, channels: int, *, layers: LayerFactory | None = None) -> None:
        super().__init__(channels, channels, layers=layers)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        y: Tensor = self.bn(F.relu(self.conv(x))) + x
        return y


def _transition(in_channels: int, out_channels: int, size: Size) -> tuple[nn.Module, Size]:
    """Make ReLU, antialiased maxima, 1x1 convolution and batch norm; return them and the size of their map."""
    size = size[0] - 1, size[1] - 1
    made = nn.Sequential(
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        BlurPool2d(in_channels, same_padding(size, 3, 2)),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
    )
    return made, halved(size)


class QuickNet(ZooBackbone):
    """A stem of a convolution and a separable one, four stages of units, transitions, ReLU, average, classifier.

    Part 3 of the stem is its depthwise convolution.

    Args:
        width: Channels of the first stage.
        multiples: Channels of each stage, in multiples of `width`.
        depths: Units of each stage.
        stem: "imagenet" (a quarter of the resolution) or "cifar" (all of it).
        layers: Makes the binary convolutions.
        **frame: As `Backbone` takes it.
    """

    def __init__(
        self,
        *,
        width: int,
        multiples: Sequence[int],
        depths: Sequence[int],
        stem: Stem,
        layers: LayerFactory,
        **frame: Any,
    ) -> None:
        super().__init__(num_features=width * multiples[-1], **frame)
        size: Size = frame["image_size"]
        stride, narrow = 2 if stem == "imagenet" else 1, width // 4
        self.stem = nn.Sequential(
            same_conv(size, self.in_channels, narrow, 3, stride),
            _norm(narrow),
            nn.ReLU(),
            same_conv(halved(size, stride), narrow, narrow, 3, stride, groups=narrow),
            _norm(narrow, affine=False),
            nn.Conv2d(narrow, width, 1, bias=False),
            _norm(width),
        )
        size, channels = halved(halved(size, stride), stride), width
        self.blocks = nn.Sequential()
        for multiple, depth in zip(multiples, depths, strict=True):
            if width * multiple != channels:
                transition, size = _transition(channels, width * multiple, size)
                self.blocks.append(transition)
                channels = width * multiple
            self.blocks.extend(QuickNetUnit(channels, layers=layers) for _ in range(depth))
        self.last = nn.ReLU()
        self.linear = nn.Linear(channels, self.num_classes)
        keras_init(self, real=nn.init.kaiming_normal_, binary=nn.init.xavier_normal_)


register_family(
    Family(
        title="Build larq-zoo's QuickNet",
        papers="Bannink et al., Larq Compute Engine, MLSys 2021.",
        network=QuickNet,
        clip=1.25,
        widths="Channels of the first stage, a multiple of 4",
        multiple=4,
        least=(29, 8),
        pad_value=1.0,
    ),
    [
        Variant(
            "quicknet_small",
            (12_652_504, 11_980_800, 1_156_055_040, 15_941_120),
            32,
            (4, 4, 4, 4),
            {"multiples": (1, 2, 8, 16)},
        ),
        Variant(
            "quicknet",
            (13_230_024, 12_533_760, 1_849_688_064, 29_651_712),
            64,
            (4, 4, 4, 4),
            {"multiples": (1, 2, 4, 8)},
        ),
        Variant(
            "quicknet_large",
            (23_338_184, 22_634_496, 3_699_376_128, 29_651_712),
            64,
            (6, 8, 12, 6),
            {"multiples": (1, 2, 4, 8)},
        ),
    ],
)
