"""Blocks of ConvNeXt and ShuffleNetV2 are native: layer norms, layers of pixels, splits, shuffles of channels."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.models as published
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig

from bnn_lightning import binarize
from bnn_lightning.binarizers import SignSTE, XNORScale
from bnn_lightning.deploy import pack
from bnn_lightning.deploy.format.info import PackedInfo
from bnn_lightning.deploy.kernels.abi import Normalizing
from bnn_lightning.deploy.kernels.library import Kernel, supported_kernels
from bnn_lightning.deploy.runtime.executor import Executor
from bnn_lightning.deploy.runtime.network import LoadedNetwork
from bnn_lightning.layers import BinaryConv2d, BinaryLinear


def in_lanes(x: np.ndarray, eps: float) -> np.ndarray:
    """Rows normalized in the order that layer_norm.c says."""
    rows, n = x.shape
    lanes = np.zeros((rows, -(-n // 16), 16), np.float32)

    def mean(values: np.ndarray) -> np.ndarray:
        lanes.reshape(rows, -1)[:, :n] = values
        partial = np.zeros((rows, 16), np.float32)
        for step in range(lanes.shape[1]):
            partial += lanes[:, step]
        total = np.zeros(rows, np.float32)
        for lane in range(16):
            total += partial[:, lane]
        return (total / np.float32(n))[:, None]

    difference = x - mean(x)
    return difference / np.sqrt(mean(difference * difference) + np.float32(eps))


@pytest.mark.parametrize("name", supported_kernels())
def test_rows_are_normalized(name: str) -> None:
    check_rows(Kernel(name))


def check_rows(kernel: Any) -> None:
    """Hold a kernel to the order of sums that layer_norm.c says, and to torch."""
    for features in (1, 3, 15, 16, 17, 40, 96):
        torch.manual_seed(features)
        x, scale, shift = 3 * torch.randn(5, features) + 1, torch.randn(features), torch.randn(features)
        out = torch.empty(5, features)
        fields: dict[str, Any] = {"rows": 5, "features": features, "eps": 0.01}
        fields |= {"x": x.data_ptr(), "out": out.data_ptr()}
        kernel.run("layer_norm", Normalizing(**fields))
        # Squares may be added with one rounding.
        np.testing.assert_allclose(out.numpy(), in_lanes(x.numpy(), 0.01), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(out, F.layer_norm(x, [features], eps=0.01), rtol=1e-5, atol=1e-5)
        kernel.run("layer_norm", Normalizing(**fields, scale=scale.data_ptr(), shift=shift.data_ptr()))
        torch.testing.assert_close(out, F.layer_norm(x, [features], scale, shift, 0.01), rtol=1e-5, atol=1e-5)


def check(network: nn.Module, images: Tensor) -> LoadedNetwork:
    """Hold a packed network to the trained one: nothing is left to torch, on any instruction set."""
    packed = pack(network.eval(), images)
    assert (packed.report.in_torch, packed.report.unplanned) == ({}, "")
    _, channels, height, width = images.shape
    loaded = LoadedNetwork(packed.graph((channels, height, width)), PackedInfo("net", channels, (height, width))).eval()
    with torch.no_grad():
        wanted = network(images)
        for name in supported_kernels():
            found = Executor().run(loaded, images, Kernel(name))
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(loaded.run_nodes(images), wanted, rtol=1e-4, atol=1e-4)
    return loaded


class Pixels(nn.Module):
    """Layers of pixels, channels last; what reads such values elsewhere gets them in their own order."""

    def __init__(self, *, read: bool) -> None:
        super().__init__()
        self.read, self.scale = read, nn.Parameter(torch.randn(1, 1, 1, 20))
        self.norm, self.real = nn.LayerNorm(20), nn.Linear(20, 24)
        self.binary = BinaryLinear(24, 20, input_binarizer=SignSTE(), weight_binarizer=XNORScale())

    def forward(self, x: Tensor) -> Tensor:
        last = x.permute(0, 2, 3, 1)
        y = self.binary(F.gelu(self.real(self.norm(last))))
        y = self.scale * y + last * 0.5
        total = y.permute(0, 3, 1, 2).mean((2, 3))
        return total + y.mean((1, 2)) if self.read else total


@pytest.mark.parametrize("read", [False, True])
def test_layers_of_pixels_are_computed_as_maps(read: bool) -> None:
    torch.manual_seed(0)
    loaded = check(Pixels(read=read), torch.randn(3, 20, 5, 6))
    operations = [node.operation for node in loaded.graph.nodes]
    assert operations.count("permute") == int(read)
    assert {"layer_norm", "conv2d", "gelu", "binary_conv2d"} <= set(operations)
    assert "linear" not in operations


def test_features_behind_a_pooling_are_normalized() -> None:
    torch.manual_seed(0)
    conv = BinaryConv2d(4, 20, 3, input_binarizer=SignSTE(), weight_binarizer=XNORScale())
    check(nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(20)), torch.randn(3, 4, 5, 6))


class Shuffled(nn.Module):
    """Parts of channels, one after the other and in turns."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.register_buffer("order", torch.arange(1.0, 37.0))
        self.conv = BinaryConv2d(8, 8, 3, padding=1, input_binarizer=SignSTE(), weight_binarizer=XNORScale())

    def forward(self, x: Tensor) -> Tensor:
        one, two, three = x.split([8, 4, 12], 1)
        four, five, six = x.chunk(3, 1)
        y = torch.cat([self.conv(one), two, three[:, 4:], four * five + six[:, :8], six], 1)
        number, channels, height, width = y.shape
        shuffled = y.view(number, self.groups, channels // self.groups, height, width).transpose(1, 2).contiguous()
        return shuffled.view(number, channels, height, width).mean((2, 3)) * self.order


@pytest.mark.parametrize("groups", [2, 3])
def test_splits_and_shuffles_are_copies(groups: int) -> None:
    torch.manual_seed(0)
    check(Shuffled(groups), torch.randn(2, 24, 5, 4))


def test_convnext_and_shufflenet_need_no_torch() -> None:
    torch.manual_seed(0)
    blocks = [CNBlockConfig(20, 32, 1), CNBlockConfig(32, None, 1)]
    for network in (
        published.ConvNeXt(blocks, stochastic_depth_prob=0.5, layer_scale=0.5, num_classes=7),
        published.ShuffleNetV2([2, 1, 1], [24, 16, 32, 64, 40], num_classes=7),
    ):
        binarize(network)
        loaded = check(network, torch.rand(2, 3, 32, 32))
        assert any(node.operation == "binary_conv2d" for node in loaded.graph.nodes)
