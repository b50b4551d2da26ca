"""Real-to-Binary on ResNet-18: binary convolutions that are gated by their real-valued inputs."""

from collections.abc import Sequence
from functools import partial

from torch import nn

from bnn_lightning.binarizers.base import BinarizerFactory
from bnn_lightning.layers.attention import SqueezeExcite
from bnn_lightning.models.blocks import Binary, layer_factory
from bnn_lightning.models.conv_blocks import RealToBinaryUnit
from bnn_lightning.models.registry import register_backbone
from bnn_lightning.models.resnet_bnn import Stem, UnitResNet
from bnn_lightning.utils.image_size import ImageSize


@register_backbone
def real2binary18(
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
    """Build Real-to-Binary's ResNet-18: four stages of four half blocks with gates, real 1x1 convolutions in the skips.

    With 1000 classes and 3x224x224 images: 11,986,856 parameters, 10,985,472 of them binary; 1,676,279,808 binary and
    138,087,936 real multiply-accumulates.

    Where larq's real-valued first stage puts tanh in place of the sign, our float twin has nothing.

    Args:
        num_classes: Width of the logits.
        in_channels: Channels of the images.
        image_size: Height and width of the images, at least 17, or 5 with the stem for CIFAR.
        mean: Normalization of the images; None leaves them in [0, 1].
        std: See `mean`.
        binary: False builds the float twin: the same network with torch's convolutions; "activations" keeps the
            weights real, the first of two training steps.
        input_binarizer: None takes SignSTE.
        weight_binarizer: None takes WeightSign with clip 1.
        pad_value: Padding of the binary convolutions: 0 (published), -1 or +1.
        width: Channels of the first stage; the others have 2, 4 and 8 times as many.
        stem: "imagenet" (7x7, stride 2, max-pooling) or "cifar" (3x3).

    Raises:
        ValueError: A value out of range.

    References:
        Martinez et al., Training Binary Neural Networks with Real-to-Binary Convolutions, ICLR 2020; in the form of
        larq/zoo (Apache-2.0), as the authors released no code.
    """
    defaults = RealToBinaryUnit.default_binarizers
    layers = layer_factory(binary, input_binarizer, weight_binarizer, defaults=defaults, pad_value=pad_value)
    return _init(
        UnitResNet(
            "real2binary18",
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
            mean=mean,
            std=std,
            stem=stem,
            stem_act=nn.ReLU(inplace=True),
            width=width,
            depths=(4, 4, 4, 4),
            block=partial(RealToBinaryUnit, layers=layers),
        )
    )


def _init(network: UnitResNet) -> UnitResNet:
    # larq/zoo's: Glorot's for convolutions, He's for gates.
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_normal_(module.weight)
    for module in network.modules():
        if isinstance(module, SqueezeExcite):
            for conv in (module.squeeze, module.excite):
                assert isinstance(conv, nn.Conv2d)
                nn.init.kaiming_normal_(conv.weight)
    return network
