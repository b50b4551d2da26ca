"""Packed networks are the networks that they were made from."""

import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.prune import l1_unstructured

from bnn_lightning.binarizers import AdaBinInput, AdaBinWeights, ReSTE, RSign, SignSTE, WeightSign, XNORScale
from bnn_lightning.deploy import LoadedNetwork, PackedConv2d, PackedInfo, PackedNetwork, load, pack, save
from bnn_lightning.deploy.frontend.torch_fallback import for_torch
from bnn_lightning.deploy.kernels import library as kernels
from bnn_lightning.layers import (
    BinaryConv2d,
    BinaryConvTranspose2d,
    BinaryLinear,
    LearnableBias,
    RPReLU,
    annealed,
    binary_layers,
)
from bnn_lightning.metrics import count_ops
from bnn_lightning.models import create_backbone, list_backbones

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_networks import BACKBONES, small_options

# Batch norms of torch round once where kernels do, from AVX2 on.
EXACT = kernels.kernel_info().name in ("x86_64_v3", "x86_64_v4")
NEAR = {"rtol": 0, "atol": 0} if EXACT else {"rtol": 1e-4, "atol": 1e-4}


def settled(network: nn.Module, images: torch.Tensor) -> nn.Module:
    """Give batch norms statistics and gains of their own, some of them negative or zero."""
    network.train()
    for binarizer in annealed(network):
        binarizer.set_progress(1.0)
    for _ in range(2):
        network(images)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            module.weight.data[0] = 0.0
        if isinstance(module, RSign | RPReLU | nn.PReLU):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.3)
    for layer in binary_layers(network).values():
        if (layer.weight >= 0).all():  # ReActNet begins with weights of one sign
            nn.init.normal_(layer.weight)
    return network.eval()


def same(network: nn.Module, images: torch.Tensor, example: torch.Tensor | None = None) -> nn.Module:
    packed = pack(network, example)
    with torch.no_grad():
        torch.testing.assert_close(packed.run_layers(images), network(images), **NEAR)
    if packed._compile().folded is not None:
        check_folding(packed, images)
    return packed


@torch.no_grad()
def check_folding(packed: PackedNetwork, images: torch.Tensor) -> None:
    """Hold the folded graph of a network to the bits of the one that was captured, node by node in torch."""
    _, channels, height, width = images.shape
    info, images = PackedInfo("net", channels, (height, width)), for_torch(images)
    trace = packed._compile().trace
    assert trace is not None
    found, wanted = (
        LoadedNetwork(graph, info).run_nodes(images) for graph in (packed.graph(info.shape), trace.graph())
    )
    torch.testing.assert_close(found, wanted, **NEAR)


def least_size(name: str) -> int:
    return 32 if name in ("mlp", "resnet18", "resnet20", "vgg_small") else 64


OFTEN = [name for name in BACKBONES if name not in ("resnet18_adabin", "vgg_small_adabin")]
# Padding is a matter of the layers: `make test` takes the other values with a few networks.
PADDED = [
    pytest.param(value, name, marks=[] if name in often else [pytest.mark.slow])
    for value, often in ((0.0, OFTEN), (-1.0, ("mlp", "resnet20")), (1.0, ("bnext_tiny", "resnet20")))
    for name in list_backbones()
]


@pytest.mark.parametrize(("pad_value", "name"), PADDED)
def test_every_backbone(name: str, pad_value: float) -> None:
    torch.manual_seed(0)
    size = least_size(name)
    options = {} if name == "mlp" else {"pad_value": pad_value}
    images = torch.rand(4, 3, size, size)
    options = small_options(name, width=8, **options)
    network = settled(create_backbone(name, num_classes=7, image_size=size, **options), images)
    packed = same(network, images)
    with_real_input = [name for name, layer in binary_layers(network).items() if layer.input_binarizer is None]
    assert set(packed.report.left) == set(with_real_input)
    assert len(packed.report.packed) == len(binary_layers(network)) - len(with_real_input)
    assert (packed.report.unplanned, packed.report.in_torch) == ("", {})
    # Each packed layer has taken in its batch norm at least, where it has one right behind it: not before it, and not
    # behind a pool, whose largest value only a sign lets pass.
    norms_elsewhere = name in ("meliusnet22", "real2binary18", "xnornet18", "vgg_small_adabin")
    norms_elsewhere |= name.startswith("binarydensenet")
    assert norms_elsewhere or len(packed.report.folded) >= len(packed.report.packed) - 1
    assert share_of_packed_products(network, packed) > 0.95


def share_of_packed_products(network: nn.Module, packed: PackedNetwork) -> float:
    count = count_ops(network, (3, network.image_size, network.image_size))
    done = sum(row.binary_macs for row in count.layers if row.name in packed.report.packed)
    return 1.0 if count.binary_macs == 0 else done / count.binary_macs


def conv(a: int, b: int, k: int = 3, **options: object) -> BinaryConv2d:
    options = {"padding": k // 2, "bias": False} | options
    return BinaryConv2d(a, b, k, input_binarizer=SignSTE(), weight_binarizer=XNORScale(), **options)  # type: ignore[arg-type]


class Branches(nn.Module):
    """A shared layer, a concatenation, odd channels, groups, additions that broadcast, values used twice, in-place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.shared, self.norm = conv(6, 6), nn.BatchNorm2d(6)
        self.left, self.right = conv(6, 5, 1), conv(6, 9, groups=3, pad_value=-1.0)
        self.deep = conv(14, 14, groups=14, pad_value=1.0, dilation=2, padding=2)
        self.deep_norm, self.prelu = nn.BatchNorm2d(14), nn.PReLU(14)
        self.relu = nn.ReLU(inplace=True)
        self.offset = nn.Parameter(torch.randn(14, 1, 1))
        self.out = nn.Linear(14, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.norm(self.shared(x)) + x
        y = self.norm(self.shared(y)) + y
        left = self.left(y)
        right = self.right(y)
        z = torch.cat([left, right], 1)
        w = self.deep_norm(self.deep(z))
        w += z  # z is read again
        w = self.prelu(w) + self.offset + z
        return self.out(self.relu(w).mean((2, 3)))


def test_a_network_never_seen() -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 3, 9, 7)
    network = settled(Branches(), images)
    packed = same(network, images, images[:1])
    assert set(packed.report.packed) == {"shared", "left", "right", "deep"}
    assert packed.report.folded.count("norm") == 2  # of a layer that is called twice
    assert {"deep_norm", "prelu"} <= set(packed.report.folded)


class Unfriendly(nn.Module):
    """A sum whose addend changes afterwards; the input of the layer is overwritten before the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(4, 4), conv(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        x = x.clone().mul_(0.5)
        kept = x * 1
        kept.add_(y)
        z = self.second(kept)
        kept.neg_()
        return (z + kept).flatten(1).mean(1, keepdim=True) + kept.sum((1, 2, 3)).unsqueeze(1)


def test_operations_in_place_keep_their_meaning() -> None:
    torch.manual_seed(1)
    images = torch.randn(2, 4, 5, 5)
    same(Unfriendly().eval(), images, images)


class AddedIntoView(nn.Module):
    """A sum that is written into what is read by another name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * 1
        view = x.view(x.shape)
        view += self.conv(x)
        return x.mean((2, 3))


def test_a_sum_in_a_view_is_seen_by_all_that_read_it() -> None:
    images = torch.randn(2, 4, 5, 5)
    same(AddedIntoView().eval(), images, images)


class Positions(nn.Module):
    """Adds a learned map to each image alike."""

    in_channels, image_size = 4, 5

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.positions = conv(4, 4), nn.Parameter(torch.randn(1, 4, 5, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.conv(x) + self.positions).mean((2, 3))


@pytest.mark.parametrize("number", [1, 5])
def test_what_is_added_to_each_image_alike(number: int) -> None:
    network = Positions().eval()
    packed = same(network, torch.randn(number, 4, 5, 5))  # its example is a single image
    assert packed.report.folded == ()
    wrong = torch.randn(2, 4, 5, 5)
    with pytest.raises(RuntimeError, match="what is added must have the shape"):
        packed.network.get_submodule("conv")(torch.randn(3, 4, 5, 5), wrong)


class FromOneTenth(SignSTE):
    """Without a `threshold()` of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x - 0.1)


class AboveMean(SignSTE):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x - x.mean((2, 3), keepdim=True))


class Doubled(BinaryConv2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


class DoubledCall(BinaryConv2d):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return 2 * super().__call__(*args, **kwargs)


class DoubledDot(BinaryConv2d):
    def scaled_dot(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().scaled_dot(x)


class DoubledWeight(BinaryConv2d):
    def binarized_weight(self) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        signs, *others = super().binarized_weight()
        return 2 * signs, *others


class WithoutCenters(BinaryConv2d):
    def add_centers(self, y: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return y


def replaced() -> BinaryConv2d:
    layer = conv(4, 4)
    layer.scaled_dot = lambda x: 2 * BinaryConv2d.scaled_dot(layer, x)  # type: ignore[method-assign]
    return layer


def other_forward() -> BinaryConv2d:
    layer = conv(4, 4)
    layer.forward = lambda input: 2 * BinaryConv2d.forward(layer, input)  # type: ignore[method-assign]
    return layer


def hooked() -> BinaryConv2d:
    layer = conv(4, 4)
    layer.register_forward_hook(lambda module, inputs, output: output * 3)
    return layer


OTHERS = pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Doubled(4, 4, 3, input_binarizer=SignSTE(), weight_binarizer=WeightSign()), "of its own"),
        (DoubledCall(4, 4, 3, input_binarizer=SignSTE(), weight_binarizer=WeightSign()), "of its own"),
        (DoubledDot(4, 4, 3, input_binarizer=SignSTE(), weight_binarizer=WeightSign()), "of its own"),
        (BinaryConv2d(4, 4, 3, input_binarizer=FromOneTenth(), weight_binarizer=WeightSign()), "threshold"),
        (BinaryConv2d(4, 4, 3, input_binarizer=AboveMean(), weight_binarizer=WeightSign()), "threshold"),
        (DoubledWeight(4, 4, 3, input_binarizer=SignSTE(), weight_binarizer=WeightSign()), "of its own"),
        (WithoutCenters(4, 4, 3, input_binarizer=AdaBinInput(), weight_binarizer=AdaBinWeights()), "of its own"),
        (replaced(), "of its own"),
        (other_forward(), "of its own"),
        (hooked(), "hooks"),
    ],
)


@OTHERS
def test_what_computes_in_a_way_of_its_own_is_left(layer: BinaryConv2d, reason: str) -> None:
    images = torch.rand(2, 4, 6, 6)
    network = nn.Sequential(conv(4, 4), layer).eval()
    packed = same(network, images, images)
    assert packed.report.packed == ("0",)
    assert reason in packed.report.left["1"]


class MeanWithDimensions(XNORScale):
    """A scale of the shape (out_channels, 1, 1, 1), which convolutions take, too."""

    def scale(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.abs().mean((1, 2, 3), keepdim=True)


class ByKeyword(nn.Module):
    """A layer that is called as torch's own may be."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(input=x)  # type: ignore[no-any-return]


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
def test_layers_are_called_and_scaled_as_those_of_torch(bias: bool) -> None:
    images = torch.randn(2, 4, 6, 6)
    binarizers: dict[str, Any] = {"input_binarizer": SignSTE(), "weight_binarizer": MeanWithDimensions()}
    layer = ByKeyword(BinaryConv2d(4, 8, 3, bias=bias, **binarizers))
    up = ByKeyword(BinaryConvTranspose2d(8, 4, 2, stride=2, bias=bias, **binarizers))
    network = nn.Sequential(layer, up, nn.Flatten()).eval()
    packed = pack(network, images[:1])
    assert packed.report.unplanned == ""
    assert torch.equal(packed(images), network(images))


def test_hooks_are_called() -> None:
    images = torch.rand(2, 4, 6, 6)
    norm = nn.BatchNorm2d(4)
    norm.register_forward_hook(lambda module, inputs, output: output * 3)
    report = same(nn.Sequential(conv(4, 4), norm).eval(), images, images).report
    assert report.folded == ("1",)
    assert "hooks" in report.unplanned


class KeepsMaps(nn.Module):
    """A network that keeps maps to look at, also those of its last call in training, and prunes its stem."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = l1_unstructured(nn.Conv2d(4, 4, 1), "weight", 0.5), conv(4, 4)
        self.map, self.maps = torch.zeros(()), {"stem": [torch.zeros(())]}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.map = self.stem(x)
        self.maps["stem"] = [self.map, self.map.sigmoid()]
        return self.conv(self.map).flatten(1)  # type: ignore[no-any-return]


def test_what_a_call_in_training_left_does_not_matter() -> None:
    network, images = KeepsMaps(), torch.randn(2, 4, 6, 6)
    network(images).sum().backward()
    network.eval()
    packed = pack(network, images)
    with torch.no_grad():
        assert torch.equal(packed(images), network(images))
    network.conv.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(ValueError, match="KeepsMaps cannot be copied"):
        pack(network, images)


class ReadsWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, self.conv.binary_weight)


def test_the_signs_of_a_packed_layer_can_be_read() -> None:
    images = torch.rand(2, 4, 6, 6)
    same(ReadsWeights().eval(), images, images)


def test_other_precisions_are_refused() -> None:
    network = nn.Sequential(conv(4, 4)).double()
    with pytest.raises(ValueError, match=r"weights of `0` are torch.float64: .* `model.float\(\)`"):
        pack(network, torch.rand(2, 4, 6, 6, dtype=torch.float64))


class ByValue(nn.Module):
    """Cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv(4, 4), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        return y if y.sum() > 0 else -y


def test_a_network_that_cannot_be_traced_is_packed_all_the_same() -> None:
    images = torch.randn(2, 4, 5, 5)
    packed = same(settled(ByValue(), images), images, images)
    assert packed.report.packed == ("conv",)
    assert packed.report.folded == ()
    assert "cannot be traced" in packed.report.unplanned


def test_linear_layers_of_any_rank() -> None:
    torch.manual_seed(0)
    layer = BinaryLinear(40, 21, input_binarizer=SignSTE(), weight_binarizer=XNORScale())
    for shape in ((40,), (3, 40), (2, 5, 40)):
        x = torch.randn(shape)
        torch.testing.assert_close(pack(nn.Sequential(layer, nn.Identity()), x).network(x), layer(x).detach())


def test_thresholds_of_the_binarizer_are_taken() -> None:
    class Shifted(SignSTE):
        def threshold(self) -> torch.Tensor:
            return torch.tensor([0.5, -0.5])

    layer = BinaryConv2d(2, 3, 1, bias=False, input_binarizer=Shifted(), weight_binarizer=WeightSign())
    x = torch.tensor([0.4, -0.4]).view(1, 2, 1, 1)
    expected = nn.functional.conv2d(torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1), layer.binary_weight)
    assert torch.equal(PackedConv2d.from_layer(layer)(x), expected)


class Shifts(nn.Module):
    """RSign before a layer, a skip and RPReLU after it; a shift more than kernels have; no batch norm and skip."""

    def __init__(self) -> None:
        super().__init__()
        self.first = BinaryConv2d(5, 5, 3, padding=1, input_binarizer=RSign(5), weight_binarizer=XNORScale())
        self.norm, self.act, self.more = nn.BatchNorm2d(5), RPReLU(5), LearnableBias(5)
        self.second = BinaryConv2d(5, 6, 1, input_binarizer=RSign(5, "sign_ste"), weight_binarizer=WeightSign())
        self.act2, self.clamp = RPReLU(6), nn.Hardtanh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.more(self.act(self.norm(self.first(x)) + x))
        return self.clamp(self.act2(self.second(y)))


def test_learned_thresholds_and_shifts_are_folded() -> None:
    torch.manual_seed(0)
    images = torch.randn(3, 5, 6, 7)
    network = settled(Shifts(), images)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    packed = same(network, images, images[:1])
    folded = {"norm", "act.shift_in", "act.prelu", "act.shift_out", "act2.shift_in", "act2.prelu", "act2.shift_out"}
    assert folded | {"clamp"} < set(packed.report.folded)
    assert "more" not in packed.report.folded


def test_what_is_not_binary_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`model` must be a torch\.nn\.Module, got str"):
        pack("net.bnn")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Linear has no binary layer: pack one that was built with binary=True"):
        pack(nn.Linear(2, 2), torch.rand(1, 2))
    network = nn.Sequential(conv(2, 2))
    network[0].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"`0\.weight` holds NaN"):
        pack(network, torch.rand(1, 2, 4, 4))
    with pytest.raises(ValueError, match=r"Packed weights must be -1 or \+1, got 1 other values, such as 0.5"):
        PackedConv2d(torch.tensor([1.0, 0.5]).view(1, 2, 1, 1))
    unfinished = ReSTE()
    unfinished.__class__ = type("Unfinished", (ReSTE,), {"is_binary": property(lambda self: False)})
    layer = BinaryConv2d(2, 2, 1, input_binarizer=unfinished, weight_binarizer=WeightSign())
    with pytest.raises(ValueError, match=r"not binary: the annealing of 0\.input_binarizer"):
        pack(nn.Sequential(layer), torch.rand(1, 2, 4, 4))
    with pytest.raises(ValueError, match="`example` must be given for Sequential"):
        pack(nn.Sequential(conv(2, 2)))
    with pytest.raises(TypeError, match=r"torch\.Tensor, got tuple"):
        pack(nn.Sequential(conv(2, 2)), (torch.rand(1, 2, 4, 4),))  # type: ignore[arg-type]


def test_the_network_itself_is_left_alone() -> None:
    network = create_backbone("resnet20", num_classes=10, image_size=32, width=16)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    pack(network)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["mlp", "resnet20"])
def test_export(name: str) -> None:
    torch.manual_seed(0)
    images = torch.rand(4, 3, 32, 32)
    packed = pack(settled(create_backbone(name, num_classes=10, image_size=32, width=16), images))
    program = torch.export.export(packed, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "bnn_lightning.binary_conv2d.default" in called
    for batch in (images, images[:3]):
        with torch.no_grad():
            torch.testing.assert_close(program.module()(batch), packed(batch))


def compiled_is_the_same(name: str, backend: str, folder: Path) -> None:
    images = torch.rand(4, 3, 32, 32)
    packed = pack(settled(create_backbone(name, num_classes=10, image_size=32, width=16), images))
    save(packed, folder / "net.bnn", PackedInfo(name, 3, 32))
    for network in (packed, load(folder / "net.bnn")):
        with torch.no_grad():
            compiled = torch.compile(network, fullgraph=True, backend=backend)
            for batch in (images, images[:3]):
                torch.testing.assert_close(compiled(batch), network(batch), rtol=1e-4, atol=1e-4)


def test_traced_by_a_compiler(tmp_path: Path) -> None:
    kernels._load.cache_clear()  # found anew, by whoever asks first
    compiled_is_the_same("mlp", "aot_eager", tmp_path)


@pytest.mark.slow
def test_compile(tmp_path: Path) -> None:
    compiled_is_the_same("resnet20", "inductor", tmp_path)


@pytest.mark.slow
def test_ahead_of_time(tmp_path: Path) -> None:
    """AOTInductor: compiled to a file, loaded, equal."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("Inductor needs a compiler for C++")
    images = torch.rand(4, 3, 32, 32)
    packed = pack(settled(create_backbone("resnet20", num_classes=10, image_size=32, width=16), images))
    with torch.no_grad():
        program = torch.export.export(packed, (images,))
        file = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "net.pt2"))
        loaded = torch._inductor.aoti_load_package(file)
        torch.testing.assert_close(loaded(images), packed(images), rtol=1e-4, atol=1e-4)
