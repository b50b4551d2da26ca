"""1-d networks: what follows their convolutions is folded, and nothing of them needs torch."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.binarizers import RSign, SignSTE, WeightSign, XNORScale
from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.deploy.runtime import native
from bnn_lightning.layers import BinaryConv1d


def conv(inputs: int, outputs: int, **options: Any) -> BinaryConv1d:
    binarizers = {"input_binarizer": RSign(inputs), "weight_binarizer": XNORScale()}
    return BinaryConv1d(inputs, outputs, 3, padding=1, bias=False, **options, **binarizers)


def norm(channels: int) -> nn.BatchNorm1d:
    layer = nn.BatchNorm1d(channels)
    for values in (layer.running_mean, layer.weight.data, layer.bias.data):
        assert values is not None
        values.normal_()
    return layer


class Residual(nn.Module):
    """A block with a shortcut, and one with half the length."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_norm, self.act = conv(6, 16), norm(16), nn.PReLU(16)
        self.second, self.second_norm = conv(16, 16, groups=2), norm(16)
        self.third, self.third_norm = conv(16, 20, stride=2), norm(20)
        self.head = nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first_norm(self.first(x.flatten(1, 2) - 0.5)))
        x = F.hardtanh(self.second_norm(self.second(x)) + x)
        x = F.gelu(self.third_norm(self.third(x)))
        logits: Tensor = self.head(x.mean(-1))
        return logits


@torch.no_grad()
def test_what_follows_convolutions_of_sequences_is_folded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, images = Residual().eval(), torch.rand(3, 3, 2, 9)
    packed = pack(network, images)
    assert (packed.report.unplanned, packed.report.in_torch, packed.report.unfolded) == ("", {}, {})
    assert {"first_norm", "act", "second_norm", "third_norm"} <= set(packed.report.folded)
    wanted = network(images)
    torch.testing.assert_close(packed.run_layers(images), wanted)
    save(packed, tmp_path / "net.bnn", PackedInfo("net", 3, (2, 9)))
    for number in (1, 3):
        torch.testing.assert_close(packed(images[:number]), wanted[:number])
        torch.testing.assert_close(load(tmp_path / "net.bnn")(images[:number]), wanted[:number])
    found = native.load(tmp_path / "net.bnn")(images.numpy())
    torch.testing.assert_close(torch.from_numpy(found), wanted)


class Real(nn.Module):
    """Batch norm and PReLU of sequences that are views of something else."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        channels = (3, 5, 7)[order[0] - 1]
        self.order, self.norm, self.act = order, norm(channels), nn.PReLU(channels)
        self.conv = BinaryConv1d(channels, 4, 3, input_binarizer=SignSTE(), weight_binarizer=WeightSign())

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(self.order[2]) if self.order[2] > 1 else x[:, 1]
        x = x if self.order[0] < self.order[1] else x.transpose(1, 2)
        y: Tensor = self.conv(self.act(self.norm(x * 2)) + x).amax(2)
        return y


@torch.no_grad()
@pytest.mark.parametrize("order", [(1, 2, 3), (1, 3, 2), (2, 3, 1), (3, 1, 2), (3, 2, 1)])
def test_sequences_of_other_origins(order: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network, images = Real(order).eval(), torch.rand(3, 3, 5, 7)
    packed = pack(network, images)
    assert packed.report.unplanned == ""
    torch.testing.assert_close(packed(images), network(images))
