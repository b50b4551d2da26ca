"""Counts against the specification, against arithmetic, and on networks of other make."""

import pytest
import torch
from torch import nn

from bnn_lightning.binarizers import SignSTE, WeightSign, XNORScale
from bnn_lightning.layers import BinaryConv2d, BinaryLinear
from bnn_lightning.metrics.conventions import size_bytes
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


# Of BNext's specification, 1.7, measured on ReActNet's code: parameters, binary MACs (G), real MACs (M), and operations
# (M, real MACs + binary MACs / 64); then ours to the unit.
REACTNET = {
    "reactnet_a": (29_343_592, 4.8169, 11.862, 87.13, 4_816_896_000, 11_862_016),
    "reactnet18": (11_704_424, 1.6763, 137.79, 163.99, 1_676_279_808, 137_793_536),
    "reactnet34": (21_827_432, 3.5260, 137.79, 192.89, 3_525_967_872, 137_793_536),
}


def full_size(name, **options):
    with torch.device("meta"):
        return count_ops(create_backbone(name, num_classes=1000, image_size=224, **options), (3, 224, 224))


@pytest.mark.parametrize("name", REACTNET)
def test_counts_of_reactnet_are_the_published(name):
    parameters, giga, mega, operations, binary, real = REACTNET[name]
    count = full_size(name)
    assert count.parameters == parameters
    assert (count.binary_macs, count.mixed_macs, count.float_macs) == (binary, 0, real)
    assert round(binary / 1e9, 4) == giga
    assert real / 1e6 == pytest.approx(mega, abs=0.005)
    assert (real + binary / 64) / 1e6 == pytest.approx(operations, abs=0.005)
    first_step = full_size(name, binary="activations")
    assert (first_step.parameters, first_step.mixed_macs, first_step.float_macs) == (parameters, binary, real)


# Channels of a ResNet-18's convolutions: (from, to, output side, how many), and its real shortcuts.
RESNET18 = [(64, 64, 56, 4), (64, 128, 28, 1), (128, 128, 28, 3), (128, 256, 14, 1), (256, 256, 14, 3)]
RESNET18 += [(256, 512, 7, 1), (512, 512, 7, 3)]
SHORTCUTS = [(64, 128, 28), (128, 256, 14), (256, 512, 7)]
STEM, HEAD = 64 * 3 * 49, 512 * 1000 + 1000


def test_counts_of_the_other_resnets_are_those_of_their_layers():
    binary = sum(9 * a * b * n for a, b, _, n in RESNET18)
    products = sum(9 * a * b * side**2 * n for a, b, side, n in RESNET18)
    norms = sum(2 * b * n for _, b, _, n in RESNET18)
    norms_before = sum(2 * a * n for a, _, _, n in RESNET18)
    skips, skip_products = sum(a * b for a, b, _ in SHORTCUTS), sum(a * b * side**2 for a, b, side in SHORTCUTS)
    real = STEM * 112**2 + 512_000
    gates = sum((a * a // 8 + a // 8 * b) * n for a, b, _, n in RESNET18)
    frame = STEM + 128 + HEAD

    bireal = full_size("birealnet18")
    assert bireal.parameters == frame + binary + norms + skips + sum(2 * b for _, b, _ in SHORTCUTS) == 11_689_512
    assert (bireal.binary_macs, bireal.float_macs) == (products, real + skip_products) == (1_676_279_808, 137_793_536)

    xnor = full_size("xnornet18")  # the skips are binary, and norms stand before the convolutions
    skip_norms = sum(2 * a for a, _, _ in SHORTCUTS)
    assert xnor.parameters == frame + binary + skips + norms_before + skip_norms == 11_687_720
    assert xnor.binary_weights == binary + skips
    assert (xnor.binary_macs, xnor.float_macs) == (products + skip_products, real) == (1_695_547_392, 118_525_952)

    gated = full_size("real2binary18")
    slopes = sum(b * n for _, b, _, n in RESNET18)
    parameters = frame + binary + norms_before + gates + slopes + skips + sum(2 * b for _, b, _ in SHORTCUTS)
    assert gated.parameters == parameters == 11_986_856
    assert (gated.binary_macs, gated.float_macs) == (products, real + skip_products + gates)
    assert size_bytes(gated) / 2**20 == pytest.approx(5.13, abs=0.005)  # 5.1 MB published


def test_counts_of_bireal_net_34():
    count = full_size("birealnet34")
    assert (count.parameters, count.binary_weights) == (21_797_672, 21_086_208)
    assert (count.binary_macs, count.float_macs) == (3_525_967_872, 137_793_536)
    assert round(count.binary_macs / 1e9, 2) == 3.53  # published


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
    assert size_bytes(count) / 1024 == pytest.approx(sum(kib), rel=2e-3)


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
    call = network._compiled_call_impl
    assert count_ops(network, (3, 8, 8)) == expected
    assert call is not None
    assert network._compiled_call_impl is call


def test_a_layer_alone_is_counted_as_in_a_network():
    layer = BinaryConv2d(4, 8, 3, padding=1, input_binarizer=SignSTE(), weight_binarizer=WeightSign())
    count = count_ops(layer, (4, 2, 2))
    assert [(row.name, row.kind) for row in count.layers] == [("", "BinaryConv2d")]
    assert (count.binary_weights, count.binary_macs, count.float_macs) == (288, 1152, 0)


class Hidden(nn.Linear):
    def forward(self, x):
        return x[..., : self.out_features] * 1.0


def test_a_layer_without_a_visible_product_is_not_counted_as_nothing():
    with pytest.raises(RuntimeError, match=r"`0` \(Hidden\) ran, but torch's counter saw no product in it"):
        count_ops(nn.Sequential(Hidden(4, 2)), (4,))
