"""Networks in C: compiled without a warning, with the logits of the packed network, bit by bit."""

import ctypes
import dataclasses
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnn_lightning.binarizers import RSign, SignSTE, WeightSign, XNORScale
from bnn_lightning.data.cifar import CIFAR10DataModule
from bnn_lightning.data.digits import DigitsDataModule
from bnn_lightning.deploy import C99Error, LoadedNetwork, PackedInfo, load, pack, save, to_c99
from bnn_lightning.deploy.format.container import read_container
from bnn_lightning.deploy.format.packed_file import constants_of, write_container
from bnn_lightning.deploy.kernels.library import kernel_info
from bnn_lightning.layers import BinaryConv2d
from bnn_lightning.models import create_backbone
from tests.deploy.emulated import SETS, can_emulate, emulator_of, zig
from tests.deploy.test_convert import settled

COMPILER = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
FLAGS = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Wno-sign-conversion", "-Werror", "-pedantic"]
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler on PATH")
Logits = Callable[[torch.Tensor], torch.Tensor]


def written(network: nn.Module, example: torch.Tensor, folder: Path, name: str = "net") -> LoadedNetwork:
    """Write a network in C, and return it from its packed file."""
    save(pack(network, example), folder / "net.bnn", PackedInfo("net", example.shape[1], example.shape[2]))
    text = to_c99(folder / "net.bnn", name)
    (folder / f"{name}.c").write_text(text.source, encoding="utf-8")
    (folder / f"{name}.h").write_text(text.header, encoding="utf-8")
    return load(folder / "net.bnn")


def check(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Hold logits in C to those of the packed network: equal, where its kernels have fused products and sums."""
    if kernel_info().name in ("x86_64_v3", "x86_64_v4", "aarch64", "aarch64_dot"):
        assert torch.equal(found, wanted), (found - wanted).abs().max()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def compiled(network: nn.Module, example: torch.Tensor, folder: Path, name: str = "net") -> tuple[Logits, Logits]:
    """Return the network from its packed file, and in C."""
    packed = written(network, example, folder, name)
    library = folder / f"{name}.so"
    # Nothing is linked: what is not in the source is an error. (By itself gcc makes a memset of a loop.)
    alone = ["-nostdlib", "-Wl,--no-undefined", "-fno-tree-loop-distribute-patterns", "-fno-builtin"]
    command = [str(COMPILER), *FLAGS, *alone, "-shared", "-fPIC", "-o", str(library)]
    done = subprocess.run([*command, str(folder / f"{name}.c")], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    function = getattr(ctypes.CDLL(str(library)), f"{name}_logits")

    def in_c(images: torch.Tensor) -> torch.Tensor:
        logits = np.zeros((len(images), packed(images[:1]).shape[1]), np.float32)
        for pixels, row in zip(images.numpy(), logits, strict=True):
            pixels = np.ascontiguousarray(pixels)
            function(pixels.ctypes.data_as(ctypes.c_void_p), row.ctypes.data_as(ctypes.c_void_p))
        return torch.from_numpy(logits)

    return packed, in_c


def bytes_of(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@needs_compiler
@pytest.mark.parametrize(
    "name, options",
    [
        ("mlp", {"width": 70, "in_channels": 1}),
        ("resnet20", {"width": 16}),
        ("resnet20", {"width": 8, "pad_value": -1.0}),
        ("vgg_small", {"width": 16, "pad_value": 1.0}),
        ("resnet18", {"width": 8}),
    ],
)
def test_networks_have_the_logits_of_the_packed_ones(name: str, options: dict[str, object], tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = bytes_of(3, int(options.get("in_channels", 3)), 16, 16)  # type: ignore[call-overload]
    channels = images.shape[1]
    statistics = {"mean": [0.4, 0.5, 0.6][:channels], "std": [0.2, 0.25, 0.3][:channels]}
    network = create_backbone(name, num_classes=7, image_size=16, **statistics, **options)
    packed, in_c = compiled(settled(network, images / 255), images / 255, tmp_path)
    check(in_c(images), packed(images))


class Odd(nn.Module):
    """Groups, dilation, odd channels, a learnable threshold, slopes, pooling with padding."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 33, (3, 2), stride=(1, 2), padding=(1, 0), groups=1)
        self.first = BinaryConv2d(
            33, 39, 3, padding=2, dilation=2, groups=3, input_binarizer=RSign(33), weight_binarizer=XNORScale()
        )
        nn.init.normal_(next(self.first.input_binarizer.parameters()), std=0.1)  # type: ignore[union-attr]
        self.norm, self.prelu = nn.BatchNorm2d(39), nn.PReLU(39)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.second = BinaryConv2d(
            39, 5, (2, 3), padding=(1, 0), pad_value=1.0, input_binarizer=SignSTE(), weight_binarizer=WeightSign()
        )
        self.out = nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.pool(self.prelu(self.norm(self.first(x))))
        x = F.avg_pool2d(F.relu(self.second(x)), 2, padding=1)
        return self.out(x.mean((2, 3)))


@needs_compiler
def test_every_part_of_a_layer(tmp_path: Path) -> None:
    torch.manual_seed(1)
    images = bytes_of(4, 2, 13, 13)
    packed, in_c = compiled(settled(Odd(), images / 255), images / 255, tmp_path, "odd_1")
    check(in_c(images), packed(images))


def binary(in_channels: int, out_channels: int) -> nn.Sequential:
    layer = BinaryConv2d(
        in_channels, out_channels, 3, padding=1, input_binarizer=SignSTE(), weight_binarizer=XNORScale()
    )
    return nn.Sequential(layer, nn.BatchNorm2d(out_channels), nn.PReLU(out_channels))


class Concatenated(nn.Module):
    """Maps side by side: in front and behind, of odd channels, and with themselves; averages of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10)
        self.first, self.second, self.third = binary(10, 7), binary(17, 12), binary(24, 9)
        self.between = nn.Sequential(nn.BatchNorm2d(29), nn.ReLU(), nn.Conv2d(29, 12, 1), nn.AvgPool2d(2))
        self.out = nn.Linear(42, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x))
        x = torch.cat([x, self.first(x)], 1)
        x = self.between(torch.cat([self.second(x), x], 1))
        x = torch.cat([self.third(torch.cat([x, x], 1)), x], 1)
        pooled = F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False)
        return self.out(torch.cat([x.mean((2, 3)), pooled.mean((2, 3))], 1))


class Arithmetic(nn.Module):
    """Functions of a value, and sums, products and quotients of values of several shapes, and with numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = binary(3, 6), nn.Linear(6, 4)
        self.register_buffer("row", torch.linspace(-1, 1, 9))
        self.register_buffer("planes", torch.linspace(0.5, 2, 6).view(6, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        functions = (torch.sigmoid, F.silu, F.gelu, F.hardsigmoid, F.hardswish, torch.tanh, F.leaky_relu, torch.neg)
        y = sum(function(x * (0.5 + i)) for i, function in enumerate(functions))
        y = (y + self.row) * x.mean((2, 3), keepdim=True) / self.planes - torch.sigmoid(y)
        return self.out(1 - y.sum((2, 3)) / 40)


@pytest.fixture(scope="module")
def pictures(data_root: Path) -> torch.Tensor:
    """Return a few images of CIFAR-10."""
    return CIFAR10DataModule(data_root, download=False).read(train=False)[0][:20]


@needs_compiler
@pytest.mark.data
def test_concatenations_and_functions(pictures: torch.Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = pictures[:, :, :9, :9].contiguous()
    for network, x in ((Concatenated(), pictures), (Arithmetic(), images)):
        packed, in_c = compiled(settled(network, x / 255), x / 255, tmp_path, type(network).__name__)
        check(in_c(x), packed(x))


@needs_compiler
@pytest.mark.data
@pytest.mark.parametrize(
    "name, options",
    [
        ("bnext18", {"width": 16}),
        pytest.param("bnext18", {}, marks=pytest.mark.slow),
        pytest.param("bnext_tiny", {"depths": (2, 1)}, marks=pytest.mark.slow),
    ],
)
def test_gates_on_real_images(name: str, options: dict[str, object], pictures: torch.Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create_backbone(name, num_classes=10, image_size=32, **options)
    packed, in_c = compiled(settled(network, pictures / 255), pictures / 255, tmp_path)
    check(in_c(pictures), packed(pictures))


_MAIN = """
#include <stdio.h>
#include "net.h"
int main(void) {
  static uint8_t pixels[net_PIXELS];
  float logits[net_CLASSES];
  while (fread(pixels, 1, sizeof pixels, stdin) == sizeof pixels) {
    net_logits(pixels, logits);
    fwrite(logits, sizeof logits, 1, stdout);
  }
  return 0;
}
"""


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not can_emulate("armv7"), reason="needs zig and qemu-arm")
def test_a_processor_of_32_bits(pictures: torch.Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    (tmp_path / "main.c").write_text(_MAIN, encoding="utf-8")
    target = SETS["armv7"]
    for network in (create_backbone("bnext18", num_classes=10, image_size=32, width=16), Concatenated()):
        packed = written(settled(network, pictures / 255), pictures / 255, tmp_path)
        files = [str(tmp_path / name) for name in ("main.c", "net.c")]
        command = [*zig(), "cc", "-target", target.system, f"-mcpu={target.cpu}", "-static", *FLAGS, *files]
        subprocess.run([*command, "-o", str(tmp_path / "net")], check=True)
        words = [str(emulator_of("armv7")), str(tmp_path / "net")]
        done = subprocess.run(words, input=pictures.numpy().tobytes(), check=True, capture_output=True)
        check(torch.from_numpy(np.frombuffer(done.stdout, "<f4").reshape(-1, 10).copy()), packed(pictures))


def train(network: nn.Module, pixels: torch.Tensor, labels: torch.Tensor, epochs: int) -> None:
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for start in [*range(0, len(pixels), 50)] * epochs:
        batch = slice(start, start + 50)
        optimizer.zero_grad()
        F.cross_entropy(network(pixels[batch] / 255), labels[batch]).backward()
        optimizer.step()


@needs_compiler
@pytest.mark.data
@pytest.mark.slow
def test_a_thousand_images_of_cifar(data_root: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    pixels, labels = CIFAR10DataModule(data_root, download=False).read(train=False)
    network = create_backbone("resnet20", num_classes=10, image_size=32)
    train(network, pixels[1000:3500], labels[1000:3500], epochs=1)
    packed, in_c = compiled(network.eval(), pixels[:2] / 255, tmp_path)
    logits, found = packed(pixels[:1000]), in_c(pixels[:1000])
    assert torch.equal(found.argmax(1), logits.argmax(1))
    check(found, logits)


@needs_compiler
@pytest.mark.parametrize("name", ["mlp", "resnet20"])
def test_real_images_get_the_classes_of_the_packed_network(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = DigitsDataModule(batch_size=64, image_size=8)
    pixels, labels = data.read(train=True)
    pixels, labels = pixels[:1000], labels[:1000]
    network = create_backbone(name, num_classes=10, in_channels=1, image_size=8, width=32)
    train(network, pixels, labels, epochs=4)
    packed, in_c = compiled(network.eval(), pixels[:2] / 255, tmp_path)
    logits = packed(pixels)
    assert (logits.argmax(1) == labels).float().mean() > 0.5
    assert torch.equal(in_c(pixels).argmax(1), logits.argmax(1))


def test_sizes_are_those_of_the_constants(tmp_path: Path) -> None:
    network = create_backbone("resnet20", num_classes=10, image_size=32).eval()
    sizes = save(pack(network), tmp_path / "net.bnn", PackedInfo("resnet20", 3, 32))
    text = to_c99(tmp_path / "net.bnn")
    # The batch norm before the classifier, of 64 channels, lies in its weights.
    assert text.flash == sizes.binary + sizes.rest - 2 * 4 * 64
    # A layer adds to its own input, in its place: a map of 16 x 32 x 32 floats and its signs. Where the sides are
    # halved, the map, the shortcut of half as many floats, and a fourth of them before it is padded live at once.
    assert text.ram == (1 + 1 / 2 + 1 / 4) * 4 * 16 * 32**2
    assert set(re.findall(r"#include [\"<](.*)[\">]", text.source + text.header)) == {"bnn_net.h", "stdint.h"}
    assert "malloc" not in text.source


def last(operation: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = BinaryConv2d(3, 4, 1, input_binarizer=SignSTE(), weight_binarizer=WeightSign())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return operation(self.conv(x)).flatten(1)

    return Network().eval()


class Head(nn.Module):
    """A binary convolution to 8 x 6 x 6 or 8 x 1 x 6, and what follows."""

    def __init__(self, operation: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        signs = RSign(3)
        nn.init.constant_(signs.bias, -0.5)
        self.conv = BinaryConv2d(3, 8, 1, input_binarizer=signs, weight_binarizer=XNORScale())
        self.rows, self.operation = nn.Linear(6, 5), operation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.operation(self.conv(x))
        return self.rows(y).flatten(1) if y.dim() == 3 else y.flatten(1)


def head_in_c(
    operation: Callable[[torch.Tensor], torch.Tensor], folder: Path
) -> tuple[nn.Module, torch.Tensor, Logits, Logits]:
    """Return a network with this head, three images in bytes, the packed network, and the compiled one."""
    torch.manual_seed(0)
    network, pixels = Head(operation).eval(), bytes_of(3, 3, 6, 6)
    return network, pixels, *compiled(network, pixels / 255, folder)


@needs_compiler
@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x.mean((2, 3)).softmax(1),
        lambda x: x.amax(3).log_softmax(1),  # of channels, with rows of a linear layer behind
        lambda x: x.amax((2, 3)),
        lambda x: x.mean(1).sum(1),
        lambda x: x.permute(0, 2, 3, 1).mean(3),
        lambda x: x.transpose(2, 3)[:, 1:7:2],
        lambda x: x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2) * 0.5,  # shuffles channels
        lambda x: F.max_pool2d(x, 2, dilation=2),
        lambda x: F.adaptive_max_pool2d(x, 3) - F.adaptive_avg_pool2d(x, (2, 1)).mean(2, keepdim=True),
        lambda x: F.pad(x, (1, 0, 2, 1), value=1.5),
        lambda x: F.pad(x.mean((2, 3)), (1, 2)),
        lambda x: F.pad(x[:, :, 1, :], (2, -2)),
        lambda x: x.clamp(min=-0.25),
        lambda x: x.mean((2, 3), keepdim=True).expand(-1, 8, 2, 3),
        lambda x: x[:, -1].flatten(1),
    ],
)
def test_what_follows_the_layers(operation: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path) -> None:
    network, pixels, packed, in_c = head_in_c(operation, tmp_path)
    with torch.no_grad():
        wanted = network(pixels / 255)
        torch.testing.assert_close(packed(pixels), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(in_c(pixels), wanted, rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize(
    "operation",
    [
        lambda x: F.pad(x.unflatten(1, (2, 4)), (1, 0)).flatten(1),
        lambda x: F.pad(x.unflatten(1, (2, 4)), (1, 0, 0, 2)).flatten(1),
        lambda x: F.pad(x.unflatten(1, (1, 8)), (0, 0, 1, 0, 2, 1)).flatten(1),
        lambda x: x.flatten(2).permute(2, 0, 1).mean(0),  # the images in the middle, in front, and behind
        lambda x: x.unsqueeze(0).amax(3).squeeze(0).flatten(1),
        lambda x: F.max_pool2d(x.mean((2, 3)).t()[None, :, None], 1).squeeze(2).squeeze(0).t(),
        lambda x: x.mean((2, 3)).clamp(0.5, -0.5) + x.mean((2, 3)),
        lambda x: F.adaptive_avg_pool2d(x[:, :, :5, :5], 2),  # windows that overlap
        lambda x: F.adaptive_max_pool2d(F.pad(x, (1, 0, 1, 0)), 3),
    ],
)
def test_moves_and_pools_have_the_bits_of_the_packed_network(
    operation: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    network, pixels, packed, in_c = head_in_c(operation, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(packed(pixels), network(pixels / 255), rtol=1e-4, atol=1e-5)
    check(in_c(pixels), packed(pixels))


@needs_compiler
@pytest.mark.parametrize(
    "operation",
    [
        lambda x: F.max_pool2d(x, (1, 2), padding=(0, 1), dilation=(1, 7)),  # a window between no pixels
        lambda x: (F.relu(x) / F.relu(x)).amax((2, 3)),  # not a number where one of them is none
        lambda x: F.max_pool2d(F.relu(x) / F.relu(x), 2),
    ],
)
def test_maxima_of_nothing_and_of_no_numbers(operation: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path) -> None:
    network, pixels, packed, in_c = head_in_c(operation, tmp_path)
    with torch.no_grad():
        wanted = network(pixels / 255)
    assert not torch.isfinite(wanted).all()
    torch.testing.assert_close(in_c(pixels), wanted, equal_nan=True)
    torch.testing.assert_close(in_c(pixels), packed(pixels), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "operation, name",
    [
        (lambda x: F.layer_norm(x.mean((2, 3)), (4,)), "layer_norm"),
        (lambda x: F.adaptive_avg_pool2d(F.pad(x, (1, 0)), 3), "adaptive_avg_pool2d"),
        (lambda x: F.adaptive_max_pool2d(x, (0, 2)).sum((2, 3)), "adaptive_max_pool2d"),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), "pad"),
        (lambda x: F.pad(x.unflatten(1, (2, 2)), (0, 0, 0, 0, 1, 0)), "pad"),
        (lambda x: F.relu(x.reshape(-1, 2, 4, 4)).reshape(-1, 4, 4, 4), "reshape"),
        (lambda x: x.mean((2, 3)).t().reshape(-1, 4), "reshape"),
        (lambda x: x.softmax(0), "softmax"),
        (lambda x: x - x.mean(0, keepdim=True), "mean"),
        (lambda x: F.max_pool2d(x.permute(2, 1, 3, 0), (2, 1)).permute(3, 0, 1, 2), "max_pool2d"),
        (lambda x: F.avg_pool2d(x, 2, divisor_override=-1), "avg_pool2d"),
    ],
)
def test_an_operation_that_c_does_not_know_is_named(
    operation: Callable[[torch.Tensor], torch.Tensor], name: str, tmp_path: Path
) -> None:
    save(pack(last(operation), torch.rand(2, 3, 4, 4)), tmp_path / "net.bnn", PackedInfo("net", 3, 4))
    with pytest.raises(C99Error, match=f"`{name}`"):
        to_c99(tmp_path / "net.bnn")
    with pytest.raises(ValueError, match="`name` must be letters"):
        to_c99(tmp_path / "net.bnn", "1; int x")


def test_names_in_a_file_cannot_become_code(tmp_path: Path) -> None:
    network = create_backbone("mlp", num_classes=3, image_size=4, width=64).eval()
    save(pack(network), tmp_path / "net.bnn", PackedInfo("net\nint evil;", 3, 4))
    container = read_container(tmp_path / "net.bnn")
    constants = [dataclasses.replace(constant, name=f"{constant.name}\n#error") for constant in constants_of(container)]
    write_container(tmp_path / "net.bnn", container.header, constants)
    text = to_c99(tmp_path / "net.bnn")
    assert not re.search(r"^\s*(int evil|#error)", text.source + text.header, flags=re.MULTILINE)
