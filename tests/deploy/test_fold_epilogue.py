"""Operations behind binary convolutions are folded into them, to the bit, or the report names the others and why."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnn_lightning.binarizers import SignSTE, WeightSign, XNORScale
from bnn_lightning.deploy import PackedNetwork, kernel_info, load, pack, save
from bnn_lightning.deploy.format.info import PackedInfo
from bnn_lightning.deploy.kernels.library import Kernel, supported_kernels
from bnn_lightning.deploy.runtime.executor import Executor
from bnn_lightning.deploy.runtime.network import LoadedNetwork
from bnn_lightning.functional import spatial_mean
from bnn_lightning.layers import BinaryConv2d, annealed
from bnn_lightning.models import create_backbone, list_backbones
from tests.deploy.test_convert import check_folding

# Batch norms of torch round once where kernels do, from AVX2 on.
EXACT = kernel_info().name in ("x86_64_v3", "x86_64_v4")
SLOWER = "torch runs it layer by layer, which is slower"
# Norms stand before the layers, or gates follow them.
NOTHING_TO_FOLD = {"real2binary18", "binarydensenet28", "binarydensenet37", "binarydensenet45"}


def conv(channels: int = 4, *, groups: int = 1, bias: bool = False) -> BinaryConv2d:
    weights = WeightSign() if bias else XNORScale()
    binarizers: dict[str, Any] = {"input_binarizer": SignSTE(), "weight_binarizer": weights}
    return BinaryConv2d(channels, channels, 3, padding=1, groups=groups, bias=bias, **binarizers)


def as_published(name: str, seed: int) -> PackedNetwork:
    """Pack a network of the registry at the size of ImageNet, and hold it to the bits of the trained one."""
    torch.manual_seed(seed)
    network = create_backbone(name, num_classes=10, image_size=224).eval()
    for binarizer in annealed(network):
        binarizer.set_progress(1.0)
    packed, images = pack(network), torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        given = images.contiguous(memory_format=torch.channels_last)
        assert torch.equal(packed.run_layers(given), network(given)) or not EXACT
    check_folding(packed, images)
    report = packed.report
    assert (report.unplanned, report.unfolded, report.in_torch) == ("", {}, {})
    return packed


def test_bnext_is_folded_at_the_size_of_imagenet() -> None:
    report = as_published("bnext_tiny", 0).report
    assert (len(report.packed), len(report.folded)) == (31, 62)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [name for name in list_backbones() if name != "mlp"])
def test_every_backbone_is_folded_at_the_size_of_imagenet(name: str, seed: int) -> None:
    report = as_published(name, seed).report
    assert bool(report.folded) != (name in NOTHING_TO_FOLD)


class Choosing(nn.Module):
    """Computes something else where it is not traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv(), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return y + y if isinstance(x, Tensor) else y * 2


class Meaning(nn.Module):
    """A mean that is computed in the order of the layout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv(), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return spatial_mean(self.norm(self.conv(x)))


class InPlace(nn.Module):
    def __init__(self, read_view: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.read_view = conv(), nn.BatchNorm2d(4), read_view

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        view = x.view(x.shape)
        x += self.norm(self.conv(x))
        return view.mean((2, 3)) if self.read_view else x.mean((2, 3))


@pytest.mark.parametrize(
    "make, count",
    [(Choosing, 1), (Meaning, 1), (lambda: InPlace(read_view=False), 2), (lambda: InPlace(read_view=True), 2)],
)
def test_operations_keep_their_meaning(make: Callable[[], nn.Module], count: int) -> None:
    torch.manual_seed(0)
    network, images = make().eval(), torch.randn(2, 4, 5, 5)
    packed = pack(network, images)
    assert len(packed.report.folded) == count
    check_folding(packed, images)
    with torch.no_grad():
        given = images.contiguous(memory_format=torch.channels_last)
        assert torch.equal(packed.run_layers(given), network(given)) or not EXACT
    torch.testing.assert_close(packed(images), packed.run_layers(images))


class Rectified(nn.Module):
    """ReLU before a batch norm, as in QuickNet, behind a bias, and behind a batch norm; of groups, too."""

    def __init__(self, *, groups: int = 1, bias: bool = False) -> None:
        super().__init__()
        self.conv, self.relu, self.norm = conv(40, groups=groups, bias=bias), nn.ReLU(), nn.BatchNorm2d(40)
        self.last, self.after, self.end = conv(40), nn.BatchNorm2d(40), nn.ReLU()
        for norm in (self.norm, self.after):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.norm(self.relu(self.conv(x)))
        return self.end(self.after(self.last(x))).mean((2, 3))


@pytest.mark.parametrize(("groups", "bias"), [(1, False), (4, False), (1, True)])
def test_relu_is_folded_before_and_behind_a_batch_norm(groups: int, bias: bool) -> None:
    torch.manual_seed(groups)
    network, images = Rectified(groups=groups, bias=bias).eval(), torch.randn(3, 40, 6, 7)
    packed, info = pack(network, images), PackedInfo("net", 40, (6, 7))
    assert sorted(name.partition("_")[0] for name in packed.report.folded) == ["add", "after", "end", "norm", "relu"]
    assert not packed.report.unfolded
    trace = packed._compile().trace
    assert trace is not None
    folded, plain = (LoadedNetwork(graph, info).eval() for graph in (packed.graph(info.shape), trace.graph()))
    nodes = [node for node in folded.graph.nodes if node.operation == "binary_conv2d"]
    assert [node["floor"] is not None for node in nodes] == [True, False]
    assert [node["low"] for node in nodes] == [None, 0.0]
    with torch.no_grad():
        for name in supported_kernels():
            found, wanted = (Executor().run(one, images, Kernel(name)) for one in (folded, plain))
            assert torch.equal(found, wanted), name
        assert torch.equal(folded.run_nodes(images), plain.run_nodes(images))
        given = images.contiguous(memory_format=torch.channels_last)
        assert torch.equal(packed.run_layers(given), network(given)) or not EXACT


class Twice(nn.Module):
    """A layer that is called twice, a clamp before an activation, and a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.norm = conv(), nn.BatchNorm2d(4)
        self.last, self.clamp, self.act = conv(), nn.Hardtanh(), nn.PReLU(4)
        self.hooked, self.loud = conv(), nn.PReLU(4)
        self.loud.register_forward_hook(lambda module, inputs, output: output * 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.shared(self.norm(self.shared(x))))
        return self.loud(self.hooked(self.act(self.clamp(self.last(x))))).mean((2, 3))


class Recurrent(nn.Module):
    """One binary convolution three times, each time with a batch norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = conv(), nn.PReLU()
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for norm in self.norms:
            x = self.act(norm(self.conv(x)) + x)
        return x.mean((2, 3))


def test_a_layer_with_several_epilogues_is_written_to_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, images = Recurrent(), torch.randn(2, 4, 8, 8)
    for _ in range(3):
        network(torch.randn(8, 4, 8, 8))
    packed = pack(network.eval(), images)
    assert len(packed.report.folded) == 9
    save(packed, tmp_path / "net.bnn", PackedInfo("net", 4, 8))
    for found in (packed, load(tmp_path / "net.bnn")):
        torch.testing.assert_close(found(images), network(images), rtol=1e-5, atol=1e-5)


def test_the_report_names_what_was_not_folded() -> None:
    report = pack(Twice().eval(), torch.rand(2, 4, 5, 5)).report
    assert sorted(report.folded) == ["clamp", "loud", "norm", "norm"]
    assert set(report.unfolded) == {"act"}
    assert "no place" in report.unfolded["act"]
    assert "hooks" in report.unplanned
    assert repr(report).count("NOT FOLDED: ") == repr(report).count(f"NO PLAN, {SLOWER}: {report.unplanned}") == 1
