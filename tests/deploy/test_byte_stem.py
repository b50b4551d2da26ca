"""Stems on bytes: sums are the same whole numbers everywhere, surroundings are exact, and files say what they hold."""

import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnn_lightning.deploy import PackedInfo, load, pack, save, to_c99
from bnn_lightning.deploy.format.container import read_container
from bnn_lightning.deploy.format.quantize_file import write_byte_stem
from bnn_lightning.deploy.frontend.byte_conv import byte_conv2d, pixels_in_bytes
from bnn_lightning.deploy.ir.graph import GraphError
from bnn_lightning.deploy.kernels import library as kernels
from bnn_lightning.deploy.kernels.conv2d_int8 import Conv2dInt8
from bnn_lightning.deploy.kernels.layout import Activation
from bnn_lightning.deploy.kernels.pool import Pool2d
from bnn_lightning.deploy.runtime import network as runtime
from bnn_lightning.deploy.runtime.network import LoadedNetwork
from bnn_lightning.deploy.runtime.save import FileSizes
from bnn_lightning.layers import BinaryConv2d
from bnn_lightning.models import create_backbone
from tests.deploy import called
from tests.deploy.test_real import activated, array, close

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_networks import small_options

CASES = 40
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(params=[*kernels.supported_kernels(), "torch"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    loaded = None if request.param == "torch" else kernels.Kernel(request.param)
    monkeypatch.setattr(runtime, "current_kernel", lambda: loaded)
    monkeypatch.setattr(called, "chosen", lambda: loaded)
    return str(request.param)


def convolved(layer: Conv2dInt8, x: torch.Tensor) -> torch.Tensor:
    """Run a convolution of bytes on the chosen kernel, or what torch computes of it in its place."""
    if called.chosen() is not None:
        return called.conv2d(layer, x)
    assert layer.scale is not None
    assert layer.around is not None
    given = [None if v is None else torch.from_numpy(v) for v in (layer.weight, layer.scale, layer.around, layer.bias)]
    pixels = x / 255 if x.dtype == torch.uint8 else x
    t = byte_conv2d(pixels, *given, layer.stride, layer.padding, layer.dilation)  # type: ignore[arg-type]
    t = activated(t, layer.activation)
    m = layer.maxima
    return t if m is None else F.max_pool2d(t, m.kernel_size, m.stride, m.padding, ceil_mode=m.ceil_mode)


def drawn(number: int) -> tuple[random.Random, torch.Tensor, torch.Tensor, dict[str, tuple[int, int]]]:
    r = random.Random(number)
    torch.manual_seed(number)
    channels, outputs = r.choice([1, 3, 3, 4, 5]), r.choice([1, 16, 17, 32, 64, 70, 128])
    moves = {"stride": (1, 3), "padding": (0, 3), "dilation": (1, 2)}
    drawn = {name: (r.randint(*span), r.randint(*span)) for name, span in moves.items()}
    kernel_size = (r.randint(1, 7), r.randint(1, 7))
    reach = [drawn["dilation"][i] * (kernel_size[i] - 1) - 2 * drawn["padding"][i] for i in (0, 1)]
    size = [max(1, reach[i] + r.randint(1, 30)) for i in (0, 1)]
    x = torch.randint(0, 256, (r.randint(1, 3), channels, *size)).to(torch.uint8)
    weight = torch.randint(-128, 128, (outputs, channels, *kernel_size)).to(torch.int8)
    if r.random() < 0.2:  # the largest sums that there are
        x, weight = torch.full_like(x, 255), torch.full_like(weight, r.choice([-128, 127]))
    kind = r.choice(["planes", "last", "cut"])
    if kind == "last":
        x = x.contiguous(memory_format=torch.channels_last)
    return r, F.pad(x, (1, 2, 2, 1))[:, :, 2:-1, 1:-2] if kind == "cut" else x, weight, drawn


def test_sums_are_whole_numbers(kernel: str) -> None:
    for number in range(CASES):
        _, x, weight, moves = drawn(number)
        given = {"scale": np.ones(len(weight), np.float32), "around": np.zeros(x.shape[1], np.float32)}
        layer = Conv2dInt8(weight.numpy(), Activation(len(weight)), **moves, **given)
        wanted = F.conv2d(x.double(), weight.double(), None, *moves.values()).float()
        assert torch.equal(convolved(layer, x), wanted), number
        assert torch.equal(convolved(layer, x / 255), wanted), number


def test_what_follows_the_sums(kernel: str) -> None:
    for number in range(CASES):
        r, x, weight, moves = drawn(number)
        outputs, channels = weight.shape[:2]
        scale, around = torch.rand(outputs) / weight[0].numel() / 1e4, 255 * torch.rand(channels)
        bias = torch.randn(outputs) if r.random() < 0.5 else None
        activation = Activation(outputs, slope=torch.rand(outputs).numpy(), low=-1.5, high=1.0)
        given = {"scale": scale.numpy(), "around": around.numpy()}
        layer = Conv2dInt8(weight.numpy(), activation, array(bias), **moves, **given)
        size = layer.out_shape(tuple(x.shape[1:]))[1:]
        maxima = None
        if r.random() < 0.5 and min(size) > 2:
            steps = {"kernel_size": (r.randint(1, 3), r.randint(1, 3)), "stride": (r.randint(1, 3), r.randint(1, 3))}
            pad = tuple(r.randint(0, side // 2) for side in steps["kernel_size"])
            maxima = Pool2d(outputs, **steps, padding=pad, average=False, ceil_mode=r.random() < 0.5)
        layer = replace(layer, maxima=maxima)
        # Padding is zero where pixels are compared with what surrounds them.
        t = F.conv2d(x.double() - around.double().view(-1, 1, 1), weight.double(), None, *moves.values())
        t = t * scale.double().view(-1, 1, 1) + (0 if bias is None else bias.double().view(-1, 1, 1))
        t = activated(t, activation).float()
        if maxima is not None:
            t = F.max_pool2d(t, maxima.kernel_size, maxima.stride, maxima.padding, ceil_mode=maxima.ceil_mode)
        close(convolved(layer, x), t, number)


def test_floats_are_taken_in_255ths(kernel: str) -> None:
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    layer = Conv2dInt8(np.ones((1, 1, 1, 1), np.int8), Activation(1), scale=one, around=zero)
    values = torch.tensor([0.0, 1.0, -3.0, 7.0, float("nan"), float("inf"), 0.4 / 255, 0.6 / 255, 254.4 / 255])
    ties = (torch.arange(255) + 0.5) / 255
    found = convolved(layer, torch.cat([values, ties]).view(1, 1, 1, -1)).flatten()
    assert found[:9].tolist() == [0, 255, 0, 255, 0, 255, 0, 1, 254]
    assert torch.equal(found[9:], (ties * 255).round())
    every = torch.arange(256) / 255
    assert torch.equal(convolved(layer, every.view(1, 1, 1, -1)).flatten(), torch.arange(256.0))
    assert torch.equal(pixels_in_bytes(every), torch.arange(256.0))


def test_weights_that_are_not_whole_are_refused() -> None:
    fits = torch.zeros(2), torch.zeros(3)
    with pytest.raises(ValueError, match=r"must be int8 in four dimensions, got torch\.float32, 4"):
        byte_conv2d(torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 1, 1), *fits)
    with pytest.raises(ValueError, match="do not fit 2 x 4 channels"):
        byte_conv2d(torch.zeros(1, 4, 4, 4), torch.zeros(2, 4, 1, 1, dtype=torch.int8), *fits)


class Files(NamedTuple):
    """A network, and what it is as files."""

    network: nn.Module
    size: int
    folder: Path
    sizes: dict[str, FileSizes]

    def load(self, name: str) -> LoadedNetwork:
        return load(self.folder / name)


@pytest.fixture(scope="module", params=["birealnet18", "resnet20"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Files:
    name, folder = request.param, tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    size, options = (32, {}) if name == "resnet20" else (40, small_options(name, width=16, stem="imagenet"))
    network = create_backbone(name, num_classes=7, image_size=size, mean=MEAN, std=STD, **options).eval()
    packed, info = pack(network), PackedInfo("net", 3, size)
    kinds: dict[str, dict[str, Any]] = {"whole": {}, "u8": {"stem": "u8"}, "both": {"stem": "u8", "rest": "int8"}}
    return Files(network, size, folder, {kind: save(packed, folder / kind, info, **kinds[kind]) for kind in kinds})


def test_files(files: Files, kernel: str) -> None:
    weights = next(m for m in files.network.modules() if isinstance(m, nn.Conv2d)).weight
    saved = files.sizes["whole"].rest - files.sizes["u8"].rest
    assert 3 * weights.numel() - 1024 < saved <= 3 * weights.numel()
    container = read_container(files.folder / "u8")
    assert (container.header["stem"], container.header["rest"]) == ("u8", "fp32")
    assert container.header["graph"][0][0] == "byte_conv2d"
    assert [entry.layout for entry in container.entries if entry.dtype == "i8"] == ["quads"]  # stored once
    loaded = files.load("u8")
    pixels = torch.randint(0, 256, (2, 3, files.size, files.size)).to(torch.uint8)
    with torch.no_grad():
        wanted = loaded.run_nodes(pixels / 255)
        torch.testing.assert_close(loaded(pixels), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(loaded(pixels / 255), wanted, rtol=1e-4, atol=1e-5)


def test_a_stem_is_the_float_one_with_rounded_weights(files: Files) -> None:
    pixels = torch.randint(0, 256, (2, 3, files.size, files.size)).to(torch.uint8)
    kinds = (m for m in files.network.modules() if isinstance(m, nn.Conv2d) and not isinstance(m, BinaryConv2d))
    stem = next(kinds)
    mean, std = (torch.tensor(values).view(-1, 1, 1).double() for values in (MEAN, STD))
    folded = stem.weight.detach().double() / std
    step = folded.flatten(1).abs().amax(1).view(-1, 1, 1, 1) / 127
    rounded = (folded / step).round() * step
    found = files.load("u8").run_node(1, {0: pixels / 255})
    wanted = F.conv2d(pixels / 255 - mean, rounded, None, stem.stride, stem.padding)
    torch.testing.assert_close(found, wanted.float(), rtol=1e-4, atol=1e-5)
    exact = F.conv2d((pixels / 255 - mean) / std, stem.weight.detach().double(), None, stem.stride, stem.padding)
    assert 0 < (found - exact).abs().max() < 0.01 * exact.abs().max()


def test_both_roundings_in_one_file(files: Files) -> None:
    one, two = files.load("u8"), files.load("both")
    operations = [node.operation for node in two.graph.nodes]
    place = operations.index("byte_conv2d")
    assert "dequantize" in operations
    images = torch.rand(2, 3, files.size, files.size)
    with torch.no_grad():
        torch.testing.assert_close(two.run_node(place + 1, {0: images}), one.run_node(1, {0: images}))
        assert not torch.equal(one(images), two(images))


def test_a_file_is_written_once_more_with_such_a_stem(files: Files, tmp_path: Path) -> None:
    write_byte_stem(files.folder / "whole", tmp_path / "net.bnn")
    assert (tmp_path / "net.bnn").read_bytes() == (files.folder / "u8").read_bytes()
    with pytest.raises(GraphError, match="here `byte_conv2d` reads them"):
        write_byte_stem(files.folder / "u8", tmp_path / "other.bnn")


def test_c_refuses_it(files: Files) -> None:
    with pytest.raises(ValueError, match="take a file with stem=fp32"):
        to_c99(files.folder / "u8")


def test_what_has_no_such_stem_is_refused(tmp_path: Path) -> None:
    packed, info = pack(create_backbone("mlp", num_classes=7, image_size=8).eval()), PackedInfo("net", 3, 8)
    with pytest.raises(GraphError, match=r"into one convolution of real weights; here `reshape` reads them"):
        save(packed, tmp_path / "net.bnn", info, stem="u8")
    with pytest.raises(ValueError, match=r"`stem` must be one of \['fp32', 'u8'\], got 'int8'"):
        save(packed, tmp_path / "net.bnn", info, stem="int8")  # type: ignore[arg-type]
    assert not (tmp_path / "net.bnn").exists()
