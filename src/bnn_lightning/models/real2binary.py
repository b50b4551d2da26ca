"""Real-to-Binary on ResNet-18: binary convolutions that are gated by their real-valued inputs."""

from functools import partial

from torch import nn

from bnn_lightning.layers.attention import SqueezeExcite
from bnn_lightning.models.conv_blocks import RealToBinaryUnit
from bnn_lightning.models.resnet_bnn import register_unit_resnet


def glorot_init(network: nn.Module) -> None:
    """Initialize as larq-zoo does, in place: Glorot's for convolutions, He's for gates."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_normal_(module.weight)
    for module in network.modules():
        if isinstance(module, SqueezeExcite):
            for conv in (module.squeeze, module.excite):
                assert isinstance(conv, nn.Conv2d)
                nn.init.kaiming_normal_(conv.weight)


register_unit_resnet(
    "real2binary18",
    title="Build Real-to-Binary's ResNet-18: four stages of four half blocks with gates, real 1x1 skips.",
    counts="""With 1000 classes and 3x224x224 images: 11,986,856 parameters, 10,985,472 of them binary; 1,676,279,808
binary and 138,087,936 real multiply-accumulates.

Where larq's real-valued first stage puts tanh in place of the sign, our float twin has nothing.""",
    papers="""Martinez et al., Training Binary Neural Networks with Real-to-Binary Convolutions, ICLR 2020; in the form
    of larq-zoo (Apache-2.0), as the authors released no code.""",
    binarizers=("SignSTE", "WeightSign with clip 1"),
    unit=RealToBinaryUnit,
    depths=(4, 4, 4, 4),
    init=glorot_init,
    stem_act=partial(nn.ReLU, inplace=True),
)
