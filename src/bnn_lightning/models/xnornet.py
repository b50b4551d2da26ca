"""XNOR-Net on ResNet-18: batch norm, sign, binary convolution; a skip around two of them."""

from functools import partial

from torch import Tensor, nn

from bnn_lightning.models.blocks import LayerFactory
from bnn_lightning.models.conv_blocks import XNORUnit
from bnn_lightning.models.resnet import fan_out_init
from bnn_lightning.models.resnet_bnn import register_unit_resnet


class XNORBlock(nn.Module):
    """Two units with one skip, itself a unit with a 1x1 convolution where the shape changes (type B).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the first unit and of the skip.
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


register_unit_resnet(
    "xnornet18",
    title="Build XNOR-Net's ResNet-18: four stages of two blocks; every convolution but the first is binary.",
    counts="""With 1000 classes and 3x224x224 images: 11,687,720 parameters, 11,157,504 of them binary; 1,695,547,392
binary and 118,525,952 real multiply-accumulates.

The paper binarizes all but the first and the last layer, so the 1x1 convolutions of the skips, too; with real ones it
would have the 137,793,536 real multiply-accumulates of Bi-Real Net. The map K of input scales is not used.""",
    papers="Rastegari et al., XNOR-Net, ECCV 2016.",
    binarizers=("SignSTE", "XNORScale"),
    unit=XNORUnit,
    block=XNORBlock,
    depths=(2, 2, 2, 2),
    init=fan_out_init,
    stem_act=partial(nn.ReLU, inplace=True),
)
