"""Bi-Real Net: a ResNet with a real-valued skip around every binary convolution."""

from bnn_lightning.models.conv_blocks import BiRealUnit
from bnn_lightning.models.resnet import fan_out_init
from bnn_lightning.models.resnet_bnn import register_unit_resnet

_XNOR_SCALE = (
    "XNORScale with its \"detached\" gradient, the paper's magnitude-aware one. The authors' code\n"
    '        has `gradient="identity"`'
)
# The paper starts from a trained real-valued network, and names no initialization of its own.
for _name, _title, _counts, _depths in (
    (
        "birealnet18",
        "Build Bi-Real Net-18: four stages of four units; real 1x1 convolutions after 2x2 averages between stages.",
        "With 1000 classes and 3x224x224 images: 11,689,512 parameters, 10,985,472 of them binary; 1,676,279,808\n"
        "binary and 137,793,536 real multiply-accumulates.",
        (4, 4, 4, 4),
    ),
    (
        "birealnet34",
        "Build Bi-Real Net-34: four stages of 6, 8, 12 and 6 units.",
        "With 1000 classes and 3x224x224 images: 21,797,672 parameters, 21,086,208 of them binary; 3,525,967,872\n"
        "binary and 137,793,536 real multiply-accumulates.",
        (6, 8, 12, 6),
    ),
):
    register_unit_resnet(
        _name,
        title=_title,
        counts=_counts,
        papers="Liu et al., Bi-Real Net, ECCV 2018.",
        binarizers=("ApproxSign", _XNOR_SCALE),
        unit=BiRealUnit,
        depths=_depths,
        init=fan_out_init,
    )
