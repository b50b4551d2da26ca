"""Networks with functions, softmax and convolutions in groups run without torch, and give its values."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from bnn_lightning.binarizers import SignSTE, WeightSign
from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.deploy.kernels import library as kernels
from bnn_lightning.layers import BinaryConv2d
from tests.deploy.test_convert import settled

pytestmark = pytest.mark.skipif(not kernels.supported_kernels(), reason="needs a compiled kernel")
MIDDLES: dict[str, Callable[[], nn.Module]] = {
    "functions": lambda: nn.Sequential(
        *(nn.Tanh(), nn.Hardswish(), nn.SiLU(), nn.GELU(), nn.LeakyReLU(0.1), nn.Hardsigmoid(), nn.Sigmoid())
    ),
    "depthwise": lambda: nn.Sequential(nn.Conv2d(24, 24, 3, 2, 1, groups=24), nn.BatchNorm2d(24), nn.PReLU(24)),
    "groups": lambda: nn.Sequential(nn.Conv2d(24, 30, 3, padding=2, groups=3, dilation=2), nn.PReLU(30)),
    "whole groups": lambda: nn.Conv2d(24, 64, 1, groups=2, bias=False),
    "multiplied": lambda: nn.Conv2d(24, 48, (3, 1), groups=24),
}


@pytest.mark.parametrize("last", [nn.Identity(), nn.Softmax(1), nn.LogSoftmax(-1)])
@pytest.mark.parametrize("middle", MIDDLES)
def test_nothing_stays_in_torch(middle: str, last: nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(0)
    between = MIDDLES[middle]()
    channels = between(torch.zeros(1, 24, 9, 9)).shape[1]
    binary = BinaryConv2d(channels, 20, 3, padding=1, input_binarizer=SignSTE(), weight_binarizer=WeightSign())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 10), last)
    network = nn.Sequential(nn.Conv2d(3, 24, 3), between, binary, nn.BatchNorm2d(20), *head)
    images = torch.rand(2, 3, 10, 10)
    settled(network, images)
    save(pack(network, images), tmp_path / "net.bnn", PackedInfo("net", in_channels=3, image_size=10))
    packed = load(tmp_path / "net.bnn")
    assert [packed.graph.nodes[number - 1].operation for number in packed.plan().torch_nodes] == []
    with torch.no_grad():
        torch.testing.assert_close(packed(images), network(images), rtol=1e-4, atol=1e-5)
