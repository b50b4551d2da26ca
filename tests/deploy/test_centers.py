"""Packed layers of AdaBin's values: exact sums, the terms of centers by class of border, native in every network."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnn_lightning.binarizers import AdaBinInput, AdaBinWeights, Libra, SignSTE, WeightSign
from bnn_lightning.binarizers.base import InputBinarizer, WeightBinarizer
from bnn_lightning.data import CIFAR10DataModule
from bnn_lightning.deploy import PackedNetwork, kernel_info, load, pack, save
from bnn_lightning.deploy.format.info import PackedInfo
from bnn_lightning.deploy.kernels.library import Kernel, supported_kernels
from bnn_lightning.deploy.runtime.executor import Executor
from bnn_lightning.deploy.runtime.network import LoadedNetwork
from bnn_lightning.deploy.runtime.repack import Repacker
from bnn_lightning.layers import BinaryConv2d, BinaryLinear, annealed
from bnn_lightning.models import create_backbone
from tests.deploy.test_c99 import bytes_of, compiled, needs_compiler

# Batch norms of torch round once where kernels do, from AVX2 on.
EXACT = kernel_info().name in ("x86_64_v3", "x86_64_v4")


def centered() -> AdaBinInput:
    binarizer = AdaBinInput()
    nn.init.uniform_(binarizer.alpha, 0.5, 1.5)
    nn.init.uniform_(binarizer.beta, -0.4, 0.4)
    return binarizer


PAIRS = {"both": (centered, AdaBinWeights), "inputs": (centered, Libra), "signs": (centered, WeightSign)}
PAIRS |= {"weights": (SignSTE, AdaBinWeights)}


def layer(
    inputs: InputBinarizer, weights: WeightBinarizer, *, size: int = 3, channels: int = 36, **options: object
) -> BinaryConv2d:
    made = BinaryConv2d(channels, 40, size, input_binarizer=inputs, weight_binarizer=weights, **options)  # type: ignore[arg-type]
    nn.init.normal_(made.weight, 0.3)
    return made


class Means(nn.Module):
    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm = conv, nn.BatchNorm2d(40)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)).mean((2, 3))


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1, "stride": 2, "bias": True},
        {"padding": (2, 1), "size": (4, 3), "dilation": (1, 2), "groups": 4, "bias": False},
        {"padding": 3, "size": 7, "bias": False},  # more classes of borders than kernels keep
        {"padding": 1, "pad_value": -1.0, "bias": False},
        {"bias": True},
    ],
)
def test_layers_have_the_bits_of_the_trained_ones(pair: str, options: dict[str, object]) -> None:
    torch.manual_seed(len(pair))
    inputs, weights = PAIRS[pair]
    network, images = Means(layer(inputs(), weights(), **options)).eval(), torch.randn(3, 36, 9, 11)  # type: ignore[arg-type]
    packed, info = pack(network, images), PackedInfo("net", 36, (9, 11))
    assert (packed.report.left, packed.report.in_torch, packed.report.unfolded) == ({}, {}, {})
    loaded = LoadedNetwork(packed.graph(info.shape), info).eval()
    with torch.no_grad():
        dense = images.contiguous(memory_format=torch.channels_last)
        assert torch.equal(packed.network.conv(dense), network.conv(dense))  # type: ignore[operator,union-attr]
        wanted = network(dense)
        for name in supported_kernels():
            found = Executor().run(loaded, images, Kernel(name))
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_linear_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), BinaryLinear(48, 20, input_binarizer=centered(), weight_binarizer=AdaBinWeights())
    )
    images = torch.randn(4, 3, 4, 4)
    packed = pack(network.eval(), images)
    save(packed, tmp_path / "net.bnn", PackedInfo("net", 3, 4))
    with torch.no_grad():
        assert torch.equal(packed(images), network(images))
        assert torch.equal(load(tmp_path / "net.bnn")(images), network(images))


def test_a_negative_width_stays_in_torch() -> None:
    network = nn.Sequential(layer(centered(), AdaBinWeights())).eval()
    nn.init.constant_(network[0].input_binarizer.alpha, -0.5)  # type: ignore[union-attr,arg-type]
    report = pack(network, torch.rand(1, 36, 5, 5)).report
    assert list(report.left) == ["0"]


def test_repacking_follows_centers() -> None:
    torch.manual_seed(0)
    network, images = Means(layer(centered(), AdaBinWeights(), padding=1)).eval(), torch.randn(2, 36, 6, 6)
    repack = Repacker(network, images)
    with torch.no_grad():
        network.conv.weight.add_(0.2)  # type: ignore[operator,union-attr]
        network.conv.input_binarizer.beta.add_(0.3)  # type: ignore[operator,union-attr]
    assert torch.equal(repack()(images), pack(network, images)(images))


def test_repacking_refuses_a_width_that_turned_negative() -> None:
    network = Means(layer(centered(), AdaBinWeights())).eval()
    repack = Repacker(network, torch.rand(1, 36, 5, 5))
    with torch.no_grad():
        network.conv.input_binarizer.alpha.neg_()  # type: ignore[operator,union-attr]
    with pytest.raises(ValueError, match="`conv` cannot be packed"):
        repack()


def trained(pixels: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """A thin ResNet-20 of AdaBin after a few steps."""
    torch.manual_seed(0)
    network = create_backbone("resnet20_adabin", num_classes=10, image_size=32, width=8)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for step in range(6):
        batch = slice(32 * step, 32 * (step + 1))
        optimizer.zero_grad()
        F.cross_entropy(network(pixels[batch] / 255), labels[batch]).backward()
        optimizer.step()
    for binarizer in annealed(network):
        binarizer.set_progress(1.0)
    return network.eval()


@pytest.mark.data
def test_a_trained_network_on_cifar(data_root: Path, tmp_path: Path) -> None:
    pixels, labels = CIFAR10DataModule(data_root, download=False).read(train=False)
    network, images = trained(pixels, labels), pixels[500:600]
    packed: PackedNetwork = pack(network)
    assert (packed.report.left, packed.report.in_torch, packed.report.unplanned) == ({}, {}, "")
    save(packed, tmp_path / "net.bnn", PackedInfo("net", 3, 32))
    with torch.no_grad():
        given = (images / 255).contiguous(memory_format=torch.channels_last)
        wanted = network(given)
        assert torch.equal(packed.run_layers(given), wanted) or not EXACT
        logits = load(tmp_path / "net.bnn")(images)
    assert torch.equal(packed(images), logits)
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits.argmax(1), wanted.argmax(1))
    assert len(logits.argmax(1).unique()) > 1


@needs_compiler
@pytest.mark.parametrize("pair", PAIRS)
def test_centers_and_relu_in_c(pair: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs, weights = PAIRS[pair]
    conv = layer(inputs(), weights(), channels=3, padding=1, stride=2, bias=False)
    norm = nn.BatchNorm2d(3)
    nn.init.constant_(norm.running_mean, 0.5)  # type: ignore[arg-type]
    network = nn.Sequential(norm, Means(nn.Sequential(conv, nn.ReLU()))).eval()
    images = bytes_of(4, 3, 9, 9)
    packed, in_c = compiled(network, images / 255, tmp_path)
    assert any(node["floor"] is not None for node in packed.graph.nodes if node.operation == "binary_conv2d")
    torch.testing.assert_close(in_c(images), packed(images), rtol=1e-5, atol=1e-5)
