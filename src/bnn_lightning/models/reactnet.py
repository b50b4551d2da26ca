"""ReActNet: RSign before and RPReLU behind every binary convolution, on a MobileNet and on ResNets."""

from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from bnn_lightning.layers.conv import BinaryConv2d
from bnn_lightning.models.backbone import PooledBackbone, Stem, check_image_size, check_size
from bnn_lightning.models.blocks import LayerFactory, repeat_shortcut
from bnn_lightning.models.builder import register_binary
from bnn_lightning.models.conv_blocks import ReActUnit
from bnn_lightning.models.resnet_bnn import register_unit_resnet

# Channels behind the stem and behind each block, in multiples of the stem's.
_WIDTHS = (1, 2, 4, 4, 8, 8, 16, 16, 16, 16, 16, 16, 32, 32)


class ReActBlock(nn.Module):
    """A 3x3 unit, and a 1x1 unit that may double the channels.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, once or twice `in_channels`.
        stride: Stride of the 3x3 unit.
        layers: Makes the convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, layers: LayerFactory) -> None:
        super().__init__()
        make = partial(ReActUnit, layers=layers, shortcut=repeat_shortcut)
        self.spatial = make(in_channels, in_channels, stride)
        self.pointwise = make(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        y: Tensor = self.pointwise(self.spatial(x))
        return y


class ReActNetA(PooledBackbone):
    """ReActNet on MobileNet's skeleton: a real 3x3 stem, 13 blocks, global average, a real classifier.

    Args:
        stem: Its stride is 2 ("imagenet") or 1 ("cifar").
        width: Channels of the stem.
        layers: Makes the binary convolutions.
        **frame: As `Backbone` takes it.

    Raises:
        ValueError: A value out of range; images that a block would have to halve at a single pixel.
    """

    unit = ReActUnit

    def __init__(
        self,
        *,
        stem: Stem,
        width: int,
        layers: LayerFactory,
        **frame: Any,
    ) -> None:
        check_image_size(frame["image_size"], stem, (17, 9), of="reactnet_a")
        large = stem == "imagenet"
        check_size("width", width, of="reactnet_a")
        widths = [width * multiple for multiple in _WIDTHS]
        super().__init__(num_features=widths[-1], **frame)
        self.conv1 = nn.Conv2d(self.in_channels, width, 3, 2 if large else 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks = []
        for index, (a, b) in enumerate(pairwise(widths)):
            blocks.append(ReActBlock(a, b, 2 if a != b and index > 0 else 1, layers=layers))
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(widths[-1], self.num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map (N, num_features, H', W') from images (N, C, H, W)."""
        y: Tensor = self.blocks(self.bn1(self.conv1(self.normalize(x))))
        return y


@register_binary(*ReActUnit.default_binarizers)
def reactnet_a(layers: LayerFactory, *, width: int = 32, stem: Stem = "imagenet", **frame: Any) -> ReActNetA:
    """Build ReActNet-A, on MobileNet's skeleton.

    With 1000 classes and 3x224x224 images: 29,343,592 parameters, 28,253,184 of them binary; 4,816,896,000 binary and
    11,862,016 real multiply-accumulates.

    Args:
        layers: Makes the binary layers.
        image_size: Height and width of the images, at least 17, or 9 with the stem for CIFAR.
        input_binarizer: None takes RSign.
        weight_binarizer: None takes XNORScale with its "identity" gradient.
        width: Channels of the stem; the last block has 32 times as many.
        stem: "imagenet" (stride 2) or "cifar" (stride 1).
        **frame: As `Backbone` takes it.

    Raises:
        ValueError: A value out of range.

    References:
        Liu et al., ReActNet, ECCV 2020.
    """
    network = ReActNetA(stem=stem, width=width, layers=layers, **frame)
    small_init(network)
    return network


def small_init(network: nn.Module) -> None:
    """Initialize binary convolutions in place, small and positive: signs are alike until training moves the weights."""
    for module in network.modules():
        if isinstance(module, BinaryConv2d):
            with torch.no_grad():
                module.weight.uniform_(0.0, 1e-3)


for _name, _counts, _depths in (
    (
        "reactnet18",
        "With 1000 classes and 3x224x224 images: 11,704,424 parameters, 10,985,472 of them binary; 1,676,279,808\n"
        "binary and 137,793,536 real multiply-accumulates.",
        (4, 4, 4, 4),
    ),
    (
        "reactnet34",
        "With 1000 classes and 3x224x224 images: 21,827,432 parameters, 21,086,208 of them binary; 3,525,967,872\n"
        "binary and 137,793,536 real multiply-accumulates.",
        (6, 8, 12, 6),
    ),
):
    register_unit_resnet(
        _name,
        title=f"Build ReActNet on the skeleton of Bi-Real Net-{_name[-2:]}.",
        counts=_counts,
        papers="Liu et al., ReActNet, ECCV 2020.",
        binarizers=("RSign", 'XNORScale with its "identity" gradient'),
        unit=ReActUnit,
        depths=_depths,
        init=small_init,
    )
