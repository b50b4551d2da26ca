"""Networks as ONNX: the sums of binary layers stay whole under the optimizations that onnxruntime makes by default."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnn_lightning.binarizers import AdaBinInput, Libra, RSign, SignSTE, WeightSign, XNORScale
from bnn_lightning.deploy import OnnxError, write_onnx
from bnn_lightning.deploy.export.onnx_rewrite import exact
from bnn_lightning.layers import BinaryConv2d, BinaryLinear
from bnn_lightning.models import create_backbone
from tests.deploy.test_convert import OTHERS, ByKeyword, conv, settled
from tests.deploy.test_real import adds_as_onednn


class Net(nn.Module):
    """Layers of every kind, whose sums meet zero often: few inputs, a scale, and no shift behind them."""

    in_channels, image_size = 3, 8

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for pad_value, channels, binarizer in ((0.0, 3, WeightSign()), (1.0, 4, Libra()), (-1.0, 4, XNORScale())):
            layers += [
                BinaryConv2d(
                    *(channels, 4, 2),
                    padding=1,
                    bias=False,
                    input_binarizer=SignSTE(),
                    weight_binarizer=binarizer,
                    pad_value=pad_value,
                ),
                nn.BatchNorm2d(4, affine=False, track_running_stats=True),
            ]
        self.real = BinaryConv2d(4, 6, 3, groups=2, weight_binarizer=XNORScale())
        self.signs = BinaryLinear(6, 5, input_binarizer=RSign(6), weight_binarizer=XNORScale())
        self.features = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.signs(self.real(self.features(images - 0.5)).mean((2, 3)))  # type: ignore[no-any-return]


def runtime_logits(path: Path, images: Tensor, batch: int) -> Tensor:
    runtime: Any = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.cat([torch.from_numpy(session.run(None, {"images": part.numpy()})[0]) for part in images.split(batch)])


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def file(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    assert write_onnx(network, path) == path.stat().st_size
    return path


def test_the_copy_computes_the_same(network: nn.Module) -> None:
    images = torch.rand(64, 3, 8, 8)
    assert torch.allclose(exact(network)(images), network(images), atol=1e-6)


@pytest.mark.parametrize("batch", [1, 64])
def test_sums_of_zero_stay_zero(network: nn.Module, file: Path, batch: int) -> None:
    images = torch.rand(64, 3, 8, 8)
    zeros: list[int] = []
    layer = network.get_submodule("features.2")
    handle = layer.register_forward_hook(lambda module, inputs, output: zeros.append(int((output == 0).sum())))
    with torch.no_grad():
        wanted = network(images)
    handle.remove()
    assert zeros[0] > 100  # the next sign would be another one, were they 1e-9
    assert (runtime_logits(file, images, batch) - wanted).abs().max() < 1e-4


def test_a_zero_is_positive(file: Path, network: nn.Module) -> None:
    images = torch.full((2, 3, 8, 8), 0.5)  # 0 after the subtraction
    with torch.no_grad():
        wanted = network(images)
    assert (runtime_logits(file, images, 2) - wanted).abs().max() < 1e-4


def test_a_backbone(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    network = create_backbone("mlp", num_classes=10, in_channels=1, image_size=8, width=32).eval()
    write_onnx(network, tmp_path / "net.onnx")
    images = torch.rand(7, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(runtime_logits(tmp_path / "net.onnx", images, 7), network(images), atol=1e-4)


class Stem(nn.Module):
    """Gives its map away, beside what a binary layer makes of it."""

    in_channels, image_size = 3, 17

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, **options)
        self.norm = nn.BatchNorm2d(16)
        self.binary = BinaryConv2d(16, 4, 3, bias=False, input_binarizer=SignSTE(), weight_binarizer=WeightSign())

    def forward(self, images: Tensor) -> Tensor:
        y = self.norm(self.conv(images))
        return torch.cat([y.flatten(1), self.binary(y).flatten(1)], 1)


@adds_as_onednn
@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1, "bias": False},
        {"stride": 2, "padding": 1},
        {"stride": (1, 2), "padding": (0, 2), "dilation": 2, "bias": False},
    ],
)
def test_a_stem_has_torchs_bits(options: dict[str, Any], tmp_path: Path) -> None:
    """One image or many, moved into the weights or not: an activation within rounding of zero keeps its sign."""
    torch.manual_seed(0)
    images = torch.rand(64, 3, 17, 17)
    network = settled(Stem(**options), images)
    write_onnx(network, tmp_path / "net.onnx")
    with torch.no_grad():
        wanted = network(images)
    for batch in (1, 64):
        assert torch.equal(runtime_logits(tmp_path / "net.onnx", images, batch), wanted)


def test_only_the_sums_are_exact_where_speed_counts(network: nn.Module, tmp_path: Path) -> None:
    kinds = {name: type(module) for name, module in exact(network, precise=False).named_modules()}
    assert kinds["features.1"] is nn.BatchNorm2d
    assert kinds["features.0"] is not BinaryConv2d
    write_onnx(network, tmp_path / "net.onnx", precise=False)
    images = torch.rand(64, 3, 8, 8)
    with torch.no_grad():
        assert (runtime_logits(tmp_path / "net.onnx", images, 64) - network(images)).abs().max() < 1e-4


class LooksAtValues(nn.Module):
    in_channels, image_size = 3, 8

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(192, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1)) if images.sum().item() > 0 else images.flatten(1)  # type: ignore[no-any-return]


def test_what_cannot_be_traced_is_one_clear_error(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    with pytest.raises(OnnxError, match=r"LooksAtValues cannot be written as ONNX: .+"):
        write_onnx(LooksAtValues().eval(), tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


class CountsImages(nn.Module):
    in_channels, image_size = 3, 8

    def forward(self, images: Tensor) -> Tensor:
        return images.reshape(len(images), -1)


def test_a_fixed_number_of_images_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    with pytest.raises(OnnxError, match=r"it fixes the number of images"):
        write_onnx(CountsImages().eval(), tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


def test_what_is_not_binary_yet_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    network = create_backbone("bnext18", num_classes=10, image_size=32, width=8)
    with pytest.raises(ValueError, match="not binary"):
        write_onnx(network, tmp_path / "net.onnx")


@OTHERS
def test_binary_layers_that_compute_in_a_way_of_their_own_are_refused(
    layer: BinaryConv2d, reason: str, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    centered = isinstance(layer.input_binarizer, AdaBinInput)
    with pytest.raises(ValueError, match=f"`1` .*cannot be written as ONNX: .*{'center' if centered else reason}"):
        write_onnx(nn.Sequential(conv(4, 4), layer).eval(), tmp_path / "net.onnx", torch.rand(2, 4, 6, 6))
    assert not (tmp_path / "net.onnx").exists()


class DoubledNorm(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class DoubledStem(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return 2 * super()._conv_forward(input, weight, bias)


class DoubledReal(BinaryConv2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda module, inputs, output: 3 * output)
    return module


@torch.no_grad()
@pytest.mark.parametrize("precise", [True, False])
def test_modules_of_floats_with_hooks_or_a_forward_of_their_own_are_kept(precise: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    images = torch.randn(4, 3, 9, 9)
    layers = [DoubledStem(3, 4, 3), hooked(nn.Conv2d(4, 4, 3)), conv(4, 4), hooked(nn.BatchNorm2d(4)), DoubledNorm(4)]
    layers += [DoubledReal(4, 4, 1, weight_binarizer=XNORScale()), hooked(BinaryConv2d(4, 4, 1, bias=False))]
    network = nn.Sequential(*layers, nn.Flatten()).eval()
    copied = exact(network, precise=precise)
    torch.testing.assert_close(copied(images), network(images), rtol=1e-5, atol=1e-5)
    assert [type(layer) for layer in copied][3:] == [type(layer) for layer in network][3:]
    write_onnx(network, tmp_path / "net.onnx", images[:2], precise=precise)
    torch.testing.assert_close(runtime_logits(tmp_path / "net.onnx", images, 4), network(images), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_layers_may_be_called_by_the_name_of_their_input(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    images = torch.randn(3, 4, 6, 6)
    layers = (nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), conv(4, 4))
    network = settled(nn.Sequential(*map(ByKeyword, layers), nn.Flatten()), images)
    torch.testing.assert_close(exact(network)(images), network(images), rtol=1e-5, atol=1e-5)
    write_onnx(network, tmp_path / "net.onnx", images[:2])
    torch.testing.assert_close(runtime_logits(tmp_path / "net.onnx", images, 3), network(images), rtol=1e-4, atol=1e-4)
