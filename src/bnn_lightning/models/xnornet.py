"""XNOR-Net on ResNet-18: batch norm, sign, binary convolution; a skip around two of them."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from bnn_lightning.binarizers.base import BinarizerFactory
from bnn_lightning.models.blocks import Binary, LayerFactory, layer_factory
from bnn_lightning.models.conv_blocks import XNORUnit
from bnn_lightning.models.registry import register_backbone
from bnn_lightning.models.resnet_bnn import Stem, UnitResNet
from bnn_lightning.utils.image_size import ImageSize


class XNORBlock(nn.Module):
    """Two units with one skip, itself a unit with a 1x1 convolution where the shape changes (type B).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Of the first unit and of the skip.
        layers: Makes the convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, layers: LayerFactory) -> None:
        super().__init__()
        same = stride == 1 and in_channels == out_channels
        self.shortcut = (
            nn.Identity() if same else XNORUnit(in_channels, out_channels, stride, kernel_size=1, layers=layers)
        )
        self.unit1 = XNORUnit(in_channels, out_channels, stride, layers=layers)
        self.unit2 = XNORUnit(out_channels, out_channels, layers=layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        skip = self.shortcut(x)
        y: Tensor = self.unit2(self.unit1(x)) + skip
        return y


@register_backbone
def xnornet18(
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
    """Build XNOR-Net's ResNet-18: four stages of two blocks; every convolution but the first is binary.

    With 1000 classes and 3x224x224 images: 11,687,720 parameters, 11,157,504 of them binary; 1,695,547,392 binary and
    118,525,952 real multiply-accumulates.

    The paper binarizes all but the first and the last layer, so the 1x1 convolutions of the skips, too; with real ones
    it would have the 137,793,536 real multiply-accumulates of Bi-Real Net. The map K of input scales is not used.

    Args:
        num_classes: Width of the logits.
        in_channels: Channels of the images.
        image_size: Height and width of the images, at least 17, or 5 with the stem for CIFAR.
        mean: Normalization of the images; None leaves them in [0, 1].
        std: See `mean`.
        binary: False builds the float twin: the same network with torch's convolutions; "activations" keeps the
            weights real, the first of two training steps.
        input_binarizer: None takes SignSTE.
        weight_binarizer: None takes XNORScale.
        pad_value: Padding of the binary convolutions: 0 (published), -1 or +1.
        width: Channels of the first stage; the others have 2, 4 and 8 times as many.
        stem: "imagenet" (7x7, stride 2, max-pooling) or "cifar" (3x3).

    Raises:
        ValueError: A value out of range.

    References:
        Rastegari et al., XNOR-Net, ECCV 2016.
    """
    defaults = XNORUnit.default_binarizers
    layers = layer_factory(binary, input_binarizer, weight_binarizer, defaults=defaults, pad_value=pad_value)
    return _kaiming(
        UnitResNet(
            "xnornet18",
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
            mean=mean,
            std=std,
            stem=stem,
            stem_act=nn.ReLU(inplace=True),
            width=width,
            depths=(2, 2, 2, 2),
            block=partial(XNORBlock, layers=layers),
        )
    )


def _kaiming(network: UnitResNet) -> UnitResNet:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return network
