"""Counts against the specification, against arithmetic, and on networks of other make."""

import pytest
import torch
from torch import nn

from bnn_lightning.binarizers import SignSTE, WeightSign, XNORScale
from bnn_lightning.layers import BinaryConv2d, BinaryLinear
from bnn_lightning.metrics.ops import count_ops, ops_table
from bnn_lightning.models import create_backbone

# Name, options; then, of specification 1.3-1.7: parameters, binary weights, binary MACs, real MACs.
# The specification counts the real shortcut convolutions twice, as the reference runs them for the self-teacher too:
# 14.36 M and 157.06 M are student and teacher together, and what they exceed one network by is in the last column.
SPECIFIED = [
    ("resnet20", {"num_classes": 10, "image_size": 32}, 269_850, 267_264, 40_108_032, 443_008, 0),
    ("resnet18", {"num_classes": 10, "image_size": 32}, 11_174_986, 10_985_472, 547_356_672, 14_357_504, 6_291_456),
    ("vgg_small", {"num_classes": 10, "image_size": 32}, 4_660_106, 4_571_136, 603_979_776, 3_620_864, 0),
    (
        "resnet18_double_skip",
        {"num_classes": 1000, "image_size": 224},
        11_690_536,
        10_985_472,
        1_676_279_808,
        157_061_120,
        19_267_584,
    ),
]


@pytest.mark.parametrize(("name", "options", "parameters", "binary", "macs", "real", "twice"), SPECIFIED)
def test_counts_are_those_of_the_specification(name, options, parameters, binary, macs, real, twice):
    size = options["image_size"]
    network = create_backbone(name, **options)
    count = count_ops(network, (3, size, size))
    assert (count.parameters, count.binary_weights) == (parameters, binary)
    shortcuts = sum(row.float_macs for row in count.layers if ".shortcut." in row.name)
    assert shortcuts == twice
    assert (count.binary_macs, count.mixed_macs, count.float_macs + shortcuts) == (macs, 0, real)
    twin = count_ops(create_backbone(name, binary=False, **options), (3, size, size))
    assert (twin.parameters, twin.binary_weights, twin.binary_macs) == (parameters, 0, 0)
    assert twin.float_macs == count.binary_macs + count.float_macs


def test_counts_of_the_mlp_are_those_of_the_specification():
    with torch.device("meta"):
        network = create_backbone("mlp", num_classes=10, in_channels=1, image_size=28, width=6144)
        count = count_ops(network, (1, 28, 28))
    assert (count.parameters, count.binary_weights) == (80_431_114, 80_314_368)
    # The image is real: the first layer has one binary factor.
    assert (count.binary_macs, count.mixed_macs, count.float_macs) == (2 * 6144**2, 784 * 6144, 6144 * 10)


@pytest.mark.parametrize(
    ("name", "kib"), [("resnet20", (32.6, 10.1)), ("resnet18", (1341, 740)), ("vgg_small", (558, 347.5))]
)
def test_bytes_are_those_of_the_specification(name, kib):
    with torch.device("meta"):
        count = count_ops(create_backbone(name, num_classes=10, image_size=32), (3, 32, 32))
    assert count.packed_bytes / 1024 == pytest.approx(sum(kib), rel=2e-3)


def test_groups_strides_and_transposed_convolutions():
    binary = BinaryConv2d(
        8, 16, 3, stride=2, padding=1, groups=4, input_binarizer=SignSTE(), weight_binarizer=XNORScale(), pad_value=-1
    )
    network = nn.Sequential(nn.Conv2d(3, 8, (3, 1), dilation=2), binary, nn.ConvTranspose2d(16, 4, 2, stride=2))
    count = count_ops(network, (3, 12, 9))
    rows = {row.name: row for row in count.layers}
    assert rows["0"].float_macs == 8 * 3 * 3 * (8 * 9)  # output 8 x 9
    assert rows["1"].binary_macs == 16 * (8 // 4) * 9 * (4 * 5)  # output 4 x 5
    assert rows["2"].float_macs == 16 * 4 * 4 * (4 * 5)
    assert rows["1"].parameters == 16 * 2 * 9 + 16
    assert rows["1"].binary_weights == 16 * 2 * 9


class Odd(nn.Module):
    """A layer used twice, its weights tied to another, and a product outside of layers."""

    def __init__(self):
        super().__init__()
        self.a = BinaryLinear(6, 6, bias=False, input_binarizer=SignSTE(), weight_binarizer=WeightSign())
        self.b = BinaryLinear(6, 6, bias=False, weight_binarizer=WeightSign())
        self.b.weight = self.a.weight

    def forward(self, x):
        x = self.b(self.a(self.a(x.flatten(1))))
        return x @ x.T


def test_shared_layers_and_products_outside_of_layers():
    count = count_ops(Odd(), (1, 2, 3))
    assert (count.parameters, count.binary_weights) == (36, 36)
    assert (count.binary_macs, count.mixed_macs, count.float_macs) == (72, 36, 6)
    assert count.layers[-1].name == "(outside of layers)"
    assert "mixed MACs" in ops_table(count)


def test_the_network_is_left_as_it_was():
    network = create_backbone("resnet20", num_classes=10, image_size=8, width=4)
    network.bn1.eval()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    count_ops(network, (3, 8, 8))
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_failing_forward_leaves_the_network_as_it_was():
    network = create_backbone("mlp", num_classes=10, image_size=8, width=4)
    with pytest.raises(ValueError, match="shape"):
        count_ops(network, (1, 8, 8))
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())


def test_compiled_in_place_and_half_precision_networks_are_counted():
    network = create_backbone("mlp", num_classes=10, image_size=8, width=4).to(torch.bfloat16)
    expected = count_ops(network, (3, 8, 8))
    network.compile(backend="eager")
    assert count_ops(network, (3, 8, 8)) == expected


class Hidden(nn.Linear):
    def forward(self, x):
        return x[..., : self.out_features] * 1.0


def test_a_layer_without_a_visible_product_is_not_counted_as_nothing():
    with pytest.raises(RuntimeError, match=r"`0` \(Hidden\) ran, but torch's counter saw no product in it"):
        count_ops(nn.Sequential(Hidden(4, 2)), (4,))
