"""Four numbers of padding: exact in torch and packed, for each value of it, with and without binarizers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnn_lightning.binarizers import AdaBinInput, AdaBinWeights, SignSTE, WeightSign
from bnn_lightning.deploy import pack
from bnn_lightning.functional.sign import sign
from bnn_lightning.layers import BinaryConv1d, BinaryConv2d
from bnn_lightning.models.family import same_max_pool, same_padding

BINARY = {"input_binarizer": SignSTE(), "weight_binarizer": WeightSign()}
SIDES = (0, 1, 2, 1)  # above, below, on the left, on the right


@pytest.mark.parametrize("pad_value", [0.0, -1.0, 1.0])
def test_it_pads_signs(pad_value: float) -> None:
    torch.manual_seed(0)
    conv = BinaryConv2d(3, 4, 3, 2, SIDES, bias=False, pad_value=pad_value, **BINARY)
    x = torch.randn(2, 3, 8, 9)
    expected = F.conv2d(F.pad(sign(x), (2, 1, 0, 1), value=pad_value), sign(conv.weight), stride=2)
    assert torch.equal(conv(x), expected)
    network = nn.Sequential(conv, nn.Flatten(), nn.Linear(expected[0].numel(), 2)).eval()
    with torch.no_grad():
        torch.testing.assert_close(pack(network, x)(x), network(x), rtol=0, atol=1e-5)


def test_without_binarizers_and_from_another_layer_it_is_the_same() -> None:
    conv, x = BinaryConv2d(3, 4, 3, 2, SIDES), torch.randn(2, 3, 8, 9)
    expected = F.conv2d(F.pad(x, (2, 1, 0, 1)), conv.weight, conv.bias, 2)
    torch.testing.assert_close(conv(x), expected)
    assert torch.equal(BinaryConv2d.from_conv(conv)(x), conv(x))
    line = BinaryConv1d(3, 4, 3, padding=(0, 2))
    torch.testing.assert_close(line(x[:, :, 0]), F.conv1d(F.pad(x[:, :, 0], (0, 2)), line.weight, line.bias))


def test_centers_are_added_within_the_image() -> None:
    conv = BinaryConv2d(3, 4, 3, 2, (0, 1, 0, 1), input_binarizer=AdaBinInput(), weight_binarizer=AdaBinWeights())
    nn.init.constant_(conv.input_binarizer.beta, 0.3)
    x = torch.randn(2, 3, 8, 8)
    plain = BinaryConv2d.from_conv(
        BinaryConv2d(3, 4, 3, 2), input_binarizer=conv.input_binarizer, weight_binarizer=conv.weight_binarizer
    )
    plain.weight, plain.bias = conv.weight, conv.bias
    torch.testing.assert_close(conv(x)[:, :, :3, :3], plain(x)[:, :, :3, :3])


@pytest.mark.parametrize("size", range(5, 13))
@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 1), (3, 2), (7, 2), (11, 4), (5, 1)])
def test_same_padding_is_tensorflows(size: int, kernel_size: int, stride: int) -> None:
    top, bottom, *_ = same_padding((size, size), kernel_size, stride)
    outputs = -(-size // stride)
    assert (size + top + bottom - kernel_size) // stride + 1 == outputs
    assert bottom - top in (0, 1)
    assert top + bottom == max(0, (outputs - 1) * stride + kernel_size - size)


@pytest.mark.parametrize("size", range(2, 10))
def test_maxima_are_padded_alike(size: int) -> None:
    x = torch.randn(1, 1, size, size)
    top, bottom, left, right = same_padding((size, size), 3, 2)
    padded = F.pad(x, (left, right, top, bottom), value=-np.inf)
    assert torch.equal(same_max_pool((size, size))(x), F.max_pool2d(padded, 3, 2))
