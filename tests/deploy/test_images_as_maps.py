"""Images become maps of floats by one copy of their planes, whatever the number of channels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bnn_lightning.binarizers import SignSTE, WeightSign
from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.deploy.format.info import PackedInfo as Info
from bnn_lightning.deploy.ir.graph import Constant, ConstantRef, Graph, Node, Value
from bnn_lightning.deploy.kernels.library import supported_kernels
from bnn_lightning.deploy.runtime.network import LoadedNetwork
from bnn_lightning.layers import BinaryConv2d

pytestmark = pytest.mark.skipif(not supported_kernels(), reason="needs a compiled kernel")
SHAPES = [(1, 5, 7), (3, 8, 6), (16, 3, 3), (17, 1, 1), (40, 2, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("normalized", [False, True])
def test_they_are_copied(shape: tuple[int, int, int], normalized: bool) -> None:
    generator = np.random.default_rng(0)
    mean, std = (generator.random((shape[0], 1, 1), np.float32) + 0.25 for _ in range(2))
    scaling = Node("sub", (Value(0), ConstantRef(0))), Node("div", (Value(1), ConstantRef(1)))
    nodes = list(scaling) if normalized else []
    windows = {"kernel_size": [1, 1], "stride": [1, 1], "padding": [0, 0]}
    nodes += [Node("max_pool2d", (Value(len(nodes)),), windows)]
    nodes += [Node("reshape", (Value(len(nodes)),), {"shape": [-1, int(np.prod(shape))]})]
    constants = (Constant.of("mean", "f32", mean), Constant.of("std", "f32", std)) if normalized else ()
    network = LoadedNetwork(Graph(tuple(nodes), constants), Info("net", shape[0], shape[1:]))
    pixels = torch.from_numpy(generator.integers(0, 256, (3, *shape), np.uint8))
    floats = pixels / 255
    wanted = (floats - torch.from_numpy(mean)) / torch.from_numpy(std) if normalized else floats
    assert torch.equal(network(pixels), wanted.flatten(1))
    assert torch.equal(network(floats), wanted.flatten(1))
    for kind in (False, True):
        assert network.plan(takes_bytes=kind).calls[0].kernel == "copy"


def test_a_file_does_not_grow_with_the_square_of_their_channels(tmp_path: Path) -> None:
    def size(channels: int) -> int:
        layer = BinaryConv2d(channels, 16, 1, input_binarizer=SignSTE(), weight_binarizer=WeightSign(), bias=False)
        net = nn.Sequential(layer, nn.Flatten()).eval()
        pixels = torch.randint(0, 256, (2, channels, 1, 1), dtype=torch.uint8)
        with torch.no_grad():
            save(pack(net, pixels / 255), tmp_path / "net.bnn", PackedInfo("net", channels, 1))
            assert torch.equal(load(tmp_path / "net.bnn")(pixels), net(pixels / 255))
        return (tmp_path / "net.bnn").stat().st_size

    assert size(2048) < 40 * 2048
