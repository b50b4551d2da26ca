"""Formulas of the conventions, written out; and the published figures of every network that the registry holds."""

import json

import pytest
import torch
from torch import nn

from bnn_lightning.binarizers import DoReFaInput, SignSTE, WeightSign
from bnn_lightning.layers import BinaryConv2d
from bnn_lightning.metrics import LayerOps, activation_peak, norm_statistics
from bnn_lightning.metrics import conventions as by
from bnn_lightning.metrics.energy import estimate_energy
from bnn_lightning.metrics.profile import profile_csv, profile_json, profile_network, profile_text
from bnn_lightning.models import create_backbone, list_backbones

COUNT = LayerOps(
    "a", "A", parameters=1000, binary_weights=801, binary_macs=6400, mixed_macs=80, float_macs=24
)  # the remainder of the bits begins a byte


def test_formulas():
    assert by.operations(COUNT) == 6400 / 64 + 80 + 24
    assert by.operations(COUNT, rest="int8") == 6400 / 64 + (80 + 24) / 8
    assert by.ace(COUNT) == 6400 * 1 * 1 + 80 * 1 * 16 + 24 * 16 * 16
    assert by.ace(COUNT, rest_bits=8) == 6400 + 80 * 8 + 24 * 64
    assert by.size_bytes(COUNT) == 101 + 4 * 199
    assert by.size_bytes(COUNT, rest="int8") == 101 + 199
    assert by.degree_of_binarization(COUNT) == 6400 / (64 * 204)
    assert by.degree_of_binarization(COUNT, rest="int8") == 6400 / (64 * 113)
    assert by.binary_share(COUNT) == 801 / 1000
    assert by.binary_mac_share(COUNT) == 6400 / 6504
    nothing = LayerOps("b", "B")
    assert by.degree_of_binarization(nothing) == by.binary_share(nothing) == by.binary_mac_share(nothing) == 0


@pytest.mark.parametrize(
    ("rest", "binary", "arithmetic", "bits"),
    [
        ("fp32", True, 6400 * (0.2 + 8 * 0.03 + 0.1) / 64 + 80 * 0.9 + 24 * (3.7 + 0.9), 801 + 32 * 199),
        ("int8", True, 6400 * (0.2 + 8 * 0.03 + 0.1) / 64 + 80 * 0.1 + 24 * (0.2 + 0.1), 801 + 8 * 199),
        ("fp32", False, 6504 * (3.7 + 0.9), 32 * 1000),
        ("int8", False, 6504 * (0.2 + 0.1), 8 * 1000),
    ],
)
def test_energy(rest, binary, arithmetic, bits):
    spent = estimate_energy(COUNT, rest=rest, binary=binary)
    assert spent.arithmetic == pytest.approx(arithmetic, rel=1e-12)
    assert spent.weights == pytest.approx(bits * 640 / 32, rel=1e-12)


# The released networks of BNext hold parameters that no gradient reaches, which ours leave out: MiB of one.
DEAD = 4 / 2**20
# Name, size of an image, classes; then, of specification 1.4 and 3.3 (bnext) and 1.3 (skd): OPs and OPs with int8 rest
# in millions, MiB with one bit and fp32 rest; None where nothing is published.
PUBLISHED = [
    ("resnet18_double_skip", 224, 1000, 163.985, None, 4.0),
    ("reactnet_a", 224, 1000, 87.13, None, None),
    ("reactnet18", 224, 1000, 163.99, None, None),
    ("reactnet34", 224, 1000, 192.89, None, None),
    ("bnext_tiny", 224, 1000, 88.61, 76.93, 13.32 - 8960 * DEAD),
    ("bnext_small", 224, 1000, 190.47, 171.99, 26.75 - 13440 * DEAD),
    ("bnext_middle", 224, 1000, 338.11, 316.88, 46.57 - 22080 * DEAD),
    ("bnext_large", 224, 1000, 854.28, 819.79, 106.32 - 41728 * DEAD),
    ("bnext18", 224, 1000, 164.33, 43.46, 5.43 - 1920 * DEAD),
]


@pytest.mark.parametrize(
    ("name", "size", "classes", "ops", "ops_int8", "mib"), PUBLISHED, ids=[row[0] for row in PUBLISHED]
)
def test_published_figures(name, size, classes, ops, ops_int8, mib):
    if name not in list_backbones():
        pytest.skip(f"{name} is not in the registry")
    with torch.device("meta"):
        total = profile_network(create_backbone(name, num_classes=classes, image_size=size), (3, size, size)).totals()
    assert total["ops"] / 1e6 == pytest.approx(ops, abs=0.006)
    assert ops_int8 is None or total["ops_int8_rest"] / 1e6 == pytest.approx(ops_int8, abs=0.006)
    assert mib is None or total["size_bytes"] / 2**20 == pytest.approx(mib, abs=0.006)


def test_published_ace():
    """PokeBNN's abstract: ReActNet (trained with Adam) has 7.9 ACE, in 1e9."""
    with torch.device("meta"):
        total = profile_network(create_backbone("reactnet_a", num_classes=1000, image_size=224), (3, 224, 224)).totals()
    assert total["ace"] / 1e9 == pytest.approx(7.9, abs=0.05)


def test_norm_statistics():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm1d(5, affine=False), nn.BatchNorm2d(7, affine=True))
    network.append(nn.BatchNorm2d(9, track_running_stats=False))
    assert norm_statistics(network) == 2 * (3 + 5 + 7)


class Shortcut(nn.Module):
    """A map that waits for two others; its image is read again at the very end where `late` says so."""

    def __init__(self, late=False):
        super().__init__()
        self.a, self.b, self.late = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 1), late

    def forward(self, x):
        y = self.a(x)
        y = y + self.b(self.b(y)).relu_()
        return y.sum() + x.sum() if self.late else y.view(-1)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_activation_peak(device):
    pixel = 4 * 5 * 5  # bytes of a channel in float32
    with torch.device(device):
        # The shortcut, input and output of the second `b`; in place and views take nothing.
        assert activation_peak(Shortcut(), (2, 5, 5)) == (8 + 8 + 8) * pixel
        assert activation_peak(Shortcut(late=True), (2, 5, 5)) == (8 + 8 + 8 + 2) * pixel
        # Statistics of batch norm are no activations; half the width is half the bytes.
        norm = nn.Sequential(nn.Conv2d(3, 64, 1), nn.BatchNorm2d(64)).bfloat16()
        assert activation_peak(norm, (3, 2, 2)) == (64 + 64) * 4 * 2
        binary = BinaryConv2d(16, 4, 1, input_binarizer=SignSTE(), weight_binarizer=WeightSign(), pad_value=1)
        for network in (nn.Sequential(binary), binary):
            assert activation_peak(network, (16, 5, 5)) == (16 + 4) * pixel + 16 * 25 // 8
        few_bits = BinaryConv2d(16, 4, 1, input_binarizer=DoReFaInput(4), weight_binarizer=WeightSign())
        assert activation_peak(nn.Sequential(few_bits), (16, 5, 5)) == (16 + 4) * pixel + 4 * 16 * 25 // 8


def test_the_network_is_left_as_it_was():
    network = nn.Sequential(
        BinaryConv2d(3, 4, 1, input_binarizer=SignSTE(), weight_binarizer=WeightSign()), nn.BatchNorm2d(4)
    )
    network[1].eval()
    profile_network(network, (3, 4, 4))
    assert [module.training for module in network] == [True, False]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_text_json_and_csv_say_the_same():
    profile = profile_network(create_backbone("resnet20", num_classes=10, image_size=32), (3, 32, 32))
    total = json.loads(profile_json(profile, model="resnet20"))
    assert (total["model"], total["input_size"]) == ("resnet20", [3, 32, 32])
    assert total["totals"]["ops"] == 40_108_032 / 64 + 443_008
    header, *rows, last = (line.split(",") for line in profile_csv(profile).splitlines())
    sums = dict(zip(header, last, strict=True))
    assert {name: float(sums[name]) for name in header[2:]} == {name: total["totals"][name] for name in header[2:]}
    for name in header[2:]:
        assert sum(float(row[header.index(name)]) for row in rows) == float(sums[name])
    text = profile_text(profile)
    for figure in ("40,108,032", "1.07 M  BOPs/64 + FLOPs; 58.59 % binary", "43.75 kB (42.73 KiB)"):
        assert figure in text
