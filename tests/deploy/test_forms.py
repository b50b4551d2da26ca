"""Programs computed natively give what their operations give one by one; patterns are taken only where they fit."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.deploy.format.container import container_bytes, read_container
from bnn_lightning.deploy.format.packed_file import file_bytes
from bnn_lightning.deploy.ir.graph import GraphError
from bnn_lightning.deploy.kernels import library as kernels
from bnn_lightning.deploy.passes.quantize_stem import quantize_stem
from bnn_lightning.deploy.passes.quantize_weights import quantize_weights
from bnn_lightning.deploy.planner.plan import KernelCall
from bnn_lightning.deploy.runtime import network as runtime
from bnn_lightning.deploy.runtime.executor import Executor
from bnn_lightning.layers import SqueezeExcite
from bnn_lightning.models import create_backbone
from tests.deploy.test_convert import conv, settled

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_networks import BACKBONES, small_options

needs_kernel = pytest.mark.skipif(not kernels.supported_kernels(), reason="needs a compiled kernel")


def loaded(network: nn.Module, images: torch.Tensor, folder: Path) -> runtime.LoadedNetwork:
    save(pack(network, images), folder / "net.bnn", PackedInfo("net", images.shape[1], images.shape[2]))
    return load(folder / "net.bnn")


Small = tuple[runtime.LoadedNetwork, torch.Tensor]


def in_torch(network: runtime.LoadedNetwork, images: torch.Tensor) -> list[str]:
    """Return the operations that stay with torch."""
    plan = network.plan(takes_bytes=images.dtype == torch.uint8)
    return [network.graph.nodes[number - 1].operation for number in plan.torch_nodes]


def agree(network: runtime.LoadedNetwork, images: torch.Tensor) -> None:
    with torch.no_grad():
        expected = network.run_nodes(images)
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max() + 1))


@pytest.fixture(scope="module", params=BACKBONES)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Every network of the registry, small and packed, and images for it."""
    name: str = request.param
    torch.manual_seed(0)
    size = 60 if name == "binary_alexnet" else 40
    options = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
    options |= {} if name.startswith(("mlp", "vgg", "resnet")) else {"stem": "imagenet"}
    images = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8)
    # Channels that fill no blocks; those of 166 parameters outweigh a BNext's few signs.
    width = 32 if name == "bnext_tiny" else 24
    network = create_backbone(name, num_classes=7, image_size=size, **small_options(name, width=width, **options))
    return loaded(settled(network, images / 255), images / 255, tmp_path_factory.mktemp(name)), images


@needs_kernel
def test_nothing_of_a_network_is_left_to_torch(small: Small) -> None:
    packed, images = small
    left = in_torch(packed, images / 255)
    assert left == []
    agree(packed, images / 255)
    with torch.no_grad():
        torch.testing.assert_close(packed(images), packed(images / 255), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(packed(images[:1]), packed(images)[:1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rest", ["fp32", "int8"])
@pytest.mark.parametrize("stem", ["fp32", "u8"])
def test_plans_add_little_to_a_file(small: Small, stem: str, rest: str) -> None:
    graph, info = small[0].graph, small[0].info
    if stem == "u8":
        try:
            graph = quantize_stem(graph)
        except GraphError:
            pytest.skip("No convolution reads its images.")
    graph = quantize_weights(graph) if rest == "int8" else graph
    header = {"graph": graph.plain(), "info": info.plain()}
    alone, _ = container_bytes(header, graph.constants)
    data, _ = file_bytes(graph, info, header)
    constants = sum(entry.num_bytes for entry in read_container(alone).entries)
    assert len(data) <= constants + max(15 * 1024, constants // 10)


class Traps(nn.Module):
    """Values that look like patterns, and are read elsewhere, too, or have another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 20, 3, 2, 1), nn.BatchNorm2d(20)
        self.grouped, self.same = nn.Conv2d(20, 20, 3, padding=1, groups=2), nn.Conv2d(20, 20, 1)
        self.binary, self.act = conv(20, 20), nn.PReLU(20)
        self.gate, self.quarter = SqueezeExcite(20), nn.AvgPool2d(2)
        self.even, self.padded = nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(2, ceil_mode=True)
        self.largest, self.spread = nn.MaxPool2d(3, 2, 1, dilation=2), nn.MaxPool2d(2, ceil_mode=True)
        self.clamp, self.out = nn.Hardtanh(-0.5, 2.0), nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.stem((x - 0.25) / 0.5)
        b = self.norm(a)  # a is read again below
        c = self.clamp(self.same(self.quarter(b)))  # of an odd side, cut off
        d = self.act(self.grouped(b))
        e = self.binary(d) * self.gate(d)
        f = e * d + self.act(a)  # one factor is not what is added
        g = e * b * b + b
        h = torch.cat([f, g.relu()], 1)[:, 10:30]
        i = self.even(h) + self.even(b).sum(1, keepdim=True)  # broadcasts
        j = self.padded(h * h) + self.largest(h).mean((2, 3), keepdim=True) + self.spread(h).clamp(max=0.5)
        k = i.mean((2, 3)) + j.mean((1, 2, 3)).unsqueeze(1) + self.padded(self.act(b)).mean((2, 3))
        return self.out(k * self.quarter(c).mean((2, 3)).sigmoid() + b.mean(3)[:, :, 0])


@needs_kernel
@pytest.mark.parametrize("size", [22, 25])
def test_a_network_of_traps(size: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, size, size)
    agree(loaded(settled(Traps(), images), images, tmp_path), images)


class Attention(nn.Module):
    """Binary convolutions with all that BNext has around them, in the order that is asked for."""

    def __init__(self, channels: int, multiply: bool) -> None:
        super().__init__()
        self.multiply = multiply
        self.conv = conv(channels, channels)
        self.gate, self.norm, self.act = SqueezeExcite(channels), nn.BatchNorm2d(channels), nn.PReLU(channels)
        self.second = conv(channels, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        r = self.act(x)
        v = self.conv(x)
        v = self.gate(v) * v
        v = r * v if self.multiply else v
        y = r + self.norm(v)
        return self.second(y).flatten(1)[:, :6]


@needs_kernel
@pytest.mark.parametrize("multiply", [False, True])
@pytest.mark.parametrize("channels", [8, 16, 40])
def test_everything_behind_a_gate_is_one_pass(channels: int, multiply: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, channels, 11, 11)
    packed = loaded(settled(Attention(channels, multiply), images), images, tmp_path)
    agree(packed, images)
    calls = [call for call in packed.plan().calls if isinstance(call, KernelCall)]
    types = packed.typed_graph(takes_bytes=False).types
    passes = [call.kernel for call in calls if call.node and types[call.node].for_images(1) == (1, channels, 11, 11)]
    assert passes == ["convolve", "combine"]  # the images are a copy


@needs_kernel
@pytest.mark.parametrize("name", kernels.supported_kernels())
def test_every_kernel(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 40, 40)
    options = small_options("bnext_tiny", width=16, stem="imagenet")
    network = settled(create_backbone("bnext_tiny", num_classes=7, image_size=40, **options), images)
    packed = loaded(network, images, tmp_path)
    kernel = kernels.Kernel(name)
    with torch.no_grad():
        found = Executor().run(packed, images, kernel)
    torch.testing.assert_close(found, packed.run_nodes(images), rtol=1e-4, atol=1e-4)


class Padded(nn.Module):
    """Channels of zeros around maps: behind pooling, behind what is read again, and what is no padding of channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, channels, 3, padding=1), conv(channels + 5, channels + 5)
        self.last, self.one = nn.Linear(channels + 5, 4), nn.Linear(1, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        a = nn.functional.pad(nn.functional.avg_pool2d(x, 1, 2), (0, 0, 0, 0, 2, 3))
        b = nn.functional.pad(nn.functional.max_pool2d(nn.functional.relu(x), 2, 2, ceil_mode=True), (0, 0, 0, 0, 5, 0))
        c = nn.functional.pad(x, (0, 0, 0, 0, 0, 5)) + nn.functional.pad(x, (0, 0, 0, 0, 4, 1))
        d = nn.functional.pad(x, (1, 1, 0, 0, 1, 4)).mean((2, 3))
        e = nn.functional.pad(x, (0, 0, 0, 0, 1, 4), value=0.5).mean((2, 3))
        means = (self.conv(a) + b).mean((2, 3), keepdim=True)
        return (
            self.last(means.flatten(1) + c.mean((2, 3)) + d + e)
            + self.last(means.flatten(1))
            + self.one(means).mean((1, 2))
        )


@needs_kernel
@pytest.mark.parametrize("channels", [1, 11, 16, 40])
def test_channels_of_zeros(channels: int, tmp_path: Path) -> None:
    torch.manual_seed(channels)
    images = torch.rand(2, 3, 9, 9)
    network = loaded(settled(Padded(channels), images), images, tmp_path)
    assert in_torch(network, images).count("pad") == 2  # of pixels, and with another value than zero
    for _ in range(2):  # the second time in memory that has been used
        agree(network, images)
