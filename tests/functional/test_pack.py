"""Bits and signs, against plain loops and torch's convolution."""

import pytest
import torch
import torch.nn.functional as F

from bnn_lightning.functional import pack
from tests.packed_dot import packed_dot


def signs(*shape: int) -> torch.Tensor:
    return torch.where(torch.rand(*shape) < 0.5, -1.0, 1.0)


@pytest.mark.parametrize("channels", [1, 2, 31, 32, 33, 64, 70])
def test_bits_are_where_they_are_said_to_be_and_come_back(channels: int) -> None:
    torch.manual_seed(channels)
    bits = torch.rand(3, channels) < 0.5
    words = pack.pack_bits(bits)
    assert words.shape == (3, -(-channels // 32))
    for row in range(3):
        for channel in range(channels):
            word = int(words[row, channel // 32]) & 0xFFFFFFFF
            assert bool(word >> channel % 32 & 1) == bool(bits[row, channel])
    assert torch.equal(pack.unpack_bits(words, channels), bits)


@pytest.mark.parametrize("groups", [1, 3])
def test_activations_and_weights_come_back(groups: int) -> None:
    torch.manual_seed(0)
    x = signs(2, 35 * groups, 3, 4)
    assert torch.equal(pack.unpack_activations(pack.pack_activations(x, groups=groups), 35 * groups, groups=groups), x)
    weight = signs(17 * groups, 35, 3, 2)
    words = pack.pack_weight(weight, groups=groups)
    assert words.shape == (groups, 2, 6, 2, 16)
    assert torch.equal(pack.unpack_weight(words, 17 * groups, 35, (3, 2)), weight)


def test_sign_of_zero_and_thresholds() -> None:
    x = torch.tensor([0.0, -0.0, -1e-45, 0.5, 0.49]).view(1, 5, 1, 1)
    assert pack.pack_activations(x).item() == 0b11011
    assert pack.pack_activations(x, torch.tensor([0.0, 0.0, -1.0, 0.5, 0.5])).item() == 0b01111


@pytest.mark.parametrize("groups, stride, dilation", [(1, (1, 1), (1, 1)), (2, (2, 1), (1, 2)), (5, (1, 3), (2, 1))])
def test_dot_is_the_convolution_of_signs(groups: int, stride: tuple[int, int], dilation: tuple[int, int]) -> None:
    torch.manual_seed(1)
    x, weight = signs(2, 33 * groups, 7, 8), signs(18 * groups, 33, 3, 2)
    got = packed_dot(
        pack.pack_activations(x, groups=groups),
        pack.pack_weight(weight, groups=groups),
        out_channels=18 * groups,
        in_channels=33,
        kernel_size=(3, 2),
        stride=stride,
        dilation=dilation,
    )
    expected = F.conv2d(x.double(), weight.double(), None, stride, 0, dilation, groups)
    assert got.dtype == torch.int32
    assert torch.equal(got.double(), expected)


def test_tap_sums() -> None:
    weight = signs(3, 5, 2, 2)
    sums = pack.tap_sums(weight)
    assert sums.shape == (4, 16)
    assert torch.equal(sums[:, :3], -weight.sum(1).flatten(1).t().to(torch.int32))
    assert not sums[:, 3:].any()
