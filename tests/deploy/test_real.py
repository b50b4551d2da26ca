"""The real-valued kernels compute what torch does, on every instruction set, for drawn shapes."""

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnn_lightning.deploy.frontend.batch_norm import batch_norm_affine
from bnn_lightning.deploy.kernels import library as kernels
from bnn_lightning.deploy.kernels.call import Address, Region
from bnn_lightning.deploy.kernels.conv2d import Conv2d
from bnn_lightning.deploy.kernels.elementwise import FusedElementwise
from bnn_lightning.deploy.kernels.layout import Activation, Map
from bnn_lightning.deploy.kernels.linear import Linear
from bnn_lightning.deploy.kernels.pool import Pool2d
from bnn_lightning.deploy.kernels.squeeze_excite import ChannelGate, Dense
from tests.deploy import called

CASES = 24
adds_as_onednn = pytest.mark.skipif(
    kernels.kernel_info().name != "x86_64_v4" or not torch.backends.mkldnn.is_available(),
    reason="oneDNN's direct convolutions are known to add in this order on AVX-512",
)
CHANNELS = (1, 3, 8, 15, 16, 17, 32, 33, 48, 64, 70, 96)


@pytest.fixture(params=kernels.supported_kernels())
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    loaded = kernels.Kernel(request.param)
    monkeypatch.setattr(called, "chosen", lambda: loaded)
    return str(request.param)


def array(tensor: torch.Tensor | None) -> Any:
    return None if tensor is None else tensor.numpy()


def arrays(tensors: tuple[torch.Tensor, ...] | None) -> Any:
    return None if tensors is None else tuple(tensor.numpy() for tensor in tensors)


def close(found: torch.Tensor, expected: torch.Tensor, case: object) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5, msg=lambda text: f"{case}: {text}")


def some(r: random.Random, *shape: int) -> torch.Tensor | None:
    return torch.randn(shape) if r.random() < 0.5 else None


def layout(r: random.Random, x: torch.Tensor) -> torch.Tensor:
    kind = r.choice(["planes", "last", "cut"])
    if kind == "last":
        return x.contiguous(memory_format=torch.channels_last)
    return F.pad(x, (1, 2, 2, 1))[:, :, 2:-1, 1:-2] if kind == "cut" else x


def activation(r: random.Random, channels: int) -> Activation:
    bounds = {"low": -0.5, "high": 1.0} if r.random() < 0.3 else {}
    return Activation(channels, slope=array(some(r, channels)), shift=array(some(r, channels)), **bounds)


def activated(t: torch.Tensor, a: Activation) -> torch.Tensor:
    view = (-1, *[1] * (t.dim() - 2))
    if a.slope is not None:
        t = t.clamp(min=0) + t.clamp(max=0) * torch.from_numpy(a.slope).view(view)
    if a.shift is not None:
        t = t + torch.from_numpy(a.shift).view(view)
    return t.clamp(a.low, a.high)


def normalized(x: torch.Tensor, given: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
    return x if given is None else (x - given[0].view(-1, 1, 1)) / given[1].view(-1, 1, 1)


def scaled(t: torch.Tensor, given: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
    return t if given is None else t * given[0].view(-1, 1, 1) + given[1].view(-1, 1, 1)


def test_convolutions(kernel: str) -> None:
    for number in range(2 * CASES):
        r = random.Random(number)
        torch.manual_seed(number)
        channels, outputs = r.choice([1, 3, 4, 16, 31, 64]), r.choice(CHANNELS)
        drawn = [(r.randint(1, 5), r.randint(1, 2), r.randint(1, 3)) for _ in (0, 1)]
        kernel_size, dilation, stride = ([pair[i] for pair in drawn] for i in range(3))
        padding = [r.randint(0, 3) for _ in (0, 1)]
        size = [max(1, dilation[i] * (kernel_size[i] - 1) + r.randint(1, 12) - 2 * padding[i]) for i in (0, 1)]
        x = layout(r, torch.randn(r.randint(1, 3), channels, *size))
        weight, bias = torch.randn(outputs, channels, *kernel_size), some(r, outputs)
        weight /= weight[0].numel() ** 0.5
        affine = (torch.randn(outputs), torch.randn(outputs)) if r.random() < 0.5 else None
        normalization = (torch.randn(channels), 0.5 + torch.rand(channels)) if r.random() < 0.5 else None
        layer = Conv2d(
            weight.numpy(),
            activation(r, outputs),
            array(bias),
            tuple(stride),
            tuple(padding),
            tuple(dilation),
            arrays(affine),
            arrays(normalization),
        )
        expected = F.conv2d(normalized(x, normalization), weight, bias, stride, padding, dilation)
        expected = scaled(expected, affine)
        residual = None
        if r.random() < 0.5:
            residual = layout(r, torch.randn(expected.shape))
            expected = expected + residual
        out = called.conv2d(layer, x, residual)
        case = (number, tuple(x.shape), kernel_size, stride, padding, dilation, outputs)
        close(out, activated(expected, layer.activation), case)
        assert tuple(out.shape[1:]) == layer.out_shape(tuple(x.shape[1:]))


def test_rows_of_many_channels_are_copied_whatever_their_size(kernel: str) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 200, 5, 90), torch.randn(3, 200, 3, 3) / 42
    layer = Conv2d(weight.numpy(), Activation(3), padding=(1, 1))
    close(called.conv2d(layer, x), F.conv2d(x, weight, None, padding=1), "three rows of 72 KB")


@pytest.mark.parametrize(("size", "rows"), [(28, 7), (14, 4), (7, 4), (4, 4), (1, 1)])
def test_bands_of_small_maps_fill_tiles(size: int, rows: int) -> None:
    layer = Conv2d(np.ones((128, 64, 1, 1)), Activation(128), pool=2)
    assert layer.band(Map(Address(Region.ARENA), (64, 2 * size, 2 * size))) == rows


def test_maxima_in_the_same_pass(kernel: str) -> None:
    for number in range(2 * CASES):
        r = random.Random(number)
        torch.manual_seed(number)
        channels, outputs, kernel_size = r.choice([1, 3, 16]), r.choice(CHANNELS), r.choice([1, 3, 5])
        moves = {"stride": (r.randint(1, 2), r.randint(1, 2)), "padding": (r.randint(0, 2), r.randint(0, 2))}
        x = layout(r, torch.randn(r.randint(1, 3), channels, r.randint(9, 40), r.randint(9, 40)))
        weight, bias = torch.randn(outputs, channels, kernel_size, kernel_size), some(r, outputs)
        normalization = (torch.randn(channels), 0.5 + torch.rand(channels)) if r.random() < 0.5 else None
        weight /= weight[0].numel() ** 0.5
        size, steps = (r.randint(1, 4), r.randint(1, 4)), (r.randint(1, 3), r.randint(1, 3))
        pad, ceil_mode = tuple(r.randint(0, side // 2) for side in size), r.random() < 0.5
        maxima = Pool2d(outputs, size, steps, padding=pad, average=False, ceil_mode=ceil_mode)
        layer = Conv2d(
            weight.numpy(),
            activation(r, outputs),
            array(bias),
            **moves,
            normalization=arrays(normalization),
            maxima=maxima,
        )
        t = F.conv2d(normalized(x, normalization), weight, bias, **moves)
        expected = F.max_pool2d(activated(t, layer.activation), size, steps, pad, ceil_mode=ceil_mode)
        out = called.conv2d(layer, x)
        close(out, expected, (number, tuple(x.shape), kernel_size, moves, size, steps, pad, outputs))
        assert tuple(out.shape[1:]) == layer.out_shape(tuple(x.shape[1:]))
        if number < 8:
            x[..., 4, 4] = float("nan")
            t = activated(F.conv2d(normalized(x, normalization), weight, bias, **moves), layer.activation)
            expected = F.max_pool2d(t, size, steps, pad, ceil_mode=ceil_mode)
            assert torch.equal(called.conv2d(layer, x).isnan(), expected.isnan())


def test_pointwise_convolutions_after_averages(kernel: str) -> None:
    for number in range(CASES):
        r = random.Random(number)
        torch.manual_seed(number)
        channels, outputs = r.choice(CHANNELS), r.choice(CHANNELS)
        x = layout(r, torch.randn(r.randint(1, 2), channels, r.randint(1, 9), r.randint(1, 9)))
        weight, bias = torch.randn(outputs, channels, 1, 1) / channels**0.5, some(r, outputs)
        layer = Conv2d(weight.numpy(), activation(r, outputs), array(bias), pool=2)
        expected = F.conv2d(F.avg_pool2d(x, 2, ceil_mode=True), weight, bias)
        close(called.conv2d(layer, x), activated(expected, layer.activation), (number, tuple(x.shape), outputs))


@adds_as_onednn
@pytest.mark.parametrize(
    "channels, outputs, kernel_size, stride, size, pool",
    [(3, 64, 3, 1, 32, 1), (3, 64, 7, 2, 56, 1), (1, 16, 5, 1, 28, 1), (64, 128, 1, 1, 8, 2), (16, 32, 1, 1, 8, 2)],
)
def test_rounds_as_torch_does(channels: int, outputs: int, kernel_size: int, stride: int, size: int, pool: int) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(outputs).eval()
    for values in (*norm.parameters(), norm.running_mean):
        nn.init.normal_(values)
    nn.init.uniform_(norm.running_var, 0.1, 3)
    affine = batch_norm_affine(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
    normalization = None if channels > 3 else (torch.rand(channels), 0.5 + torch.rand(channels))
    padding = (kernel_size // 2, kernel_size // 2)
    weight, x = torch.randn(outputs, channels, kernel_size, kernel_size), torch.rand(5, channels, size, size)
    bias = torch.randn(outputs) if kernel_size > 1 else None
    layer = Conv2d(
        weight.numpy(),
        Activation(outputs),
        array(bias),
        (stride, stride),
        padding,
        affine=arrays(affine),
        normalization=arrays(normalization),
        pool=pool,
    )
    with torch.no_grad():
        before = F.avg_pool2d(x, 2) if pool == 2 else normalized(x, normalization)
        wanted = norm(F.conv2d(before, weight, bias, stride, padding))
        assert torch.equal(called.conv2d(layer, x), wanted)
        if channels == 3:
            images = (255 * x).byte()
            wanted = norm(F.conv2d(normalized(images / 255, normalization), weight, bias, stride, padding))
            assert torch.equal(called.conv2d(layer, images), wanted)


@pytest.mark.parametrize("int8", [False, True])
def test_linear_layers(kernel: str, int8: bool) -> None:
    for number in range(CASES):
        r = random.Random(number)
        torch.manual_seed(number)
        rows, inputs, outputs = r.randint(1, 5), r.choice([1, 3, 16, 50, 128]), r.choice([*CHANNELS, 200])
        x, bias = torch.randn(rows, inputs), some(r, outputs)
        weight = torch.randint(-127, 128, (outputs, inputs)).to(torch.int8) if int8 else torch.randn(outputs, inputs)
        scale = torch.rand(outputs) / 100 if int8 else None
        layer = Linear(weight.numpy(), array(bias), array(scale), activation(r, outputs))
        dense = weight if scale is None else weight * scale[:, None]
        assert layer.activation is not None
        expected = activated(F.linear(x, dense, bias), layer.activation)
        close(called.linear(layer, x), expected, (number, rows, inputs, outputs))


def test_pools(kernel: str) -> None:
    for number in range(CASES):
        r = random.Random(number)
        torch.manual_seed(number)
        channels, average = r.choice(CHANNELS), r.random() < 0.5
        kernel_size = (r.randint(1, 3), r.randint(1, 3))
        stride = (r.randint(1, 3), r.randint(1, 3))
        padding = tuple(r.randint(0, size // 2) for size in kernel_size)
        ceil_mode, before = r.random() < 0.5, some(r, channels)
        padded, divisor = r.random() < 0.5, r.choice([0, 0, 5])
        x = layout(r, torch.randn(r.randint(1, 2), channels, r.randint(3, 9), r.randint(3, 9)))
        layer = Pool2d(channels, kernel_size, stride, padding, average, ceil_mode, array(before), padded, divisor)
        t = x if before is None else F.prelu(x, before)
        if average:
            expected = F.avg_pool2d(t, kernel_size, stride, padding, ceil_mode, padded, divisor or None)
        else:
            expected = F.max_pool2d(t, kernel_size, stride, padding, ceil_mode=ceil_mode)
        assert layer.out_shape(tuple(x.shape[1:])) == tuple(expected.shape[1:])
        case = (number, tuple(x.shape), kernel_size, stride, padding, average, ceil_mode, padded, divisor)
        close(called.pool(layer, x), expected, case)


def test_windows_of_many_rows_are_not_native() -> None:
    assert not Pool2d(16, (20, 3), (7, 2)).is_native
    assert Pool2d(16, (20, 3), (7, 2), average=True).is_native


def test_a_maximum_of_infinities_is_one(kernel: str) -> None:
    x = torch.full((1, 70, 4, 4), -float("inf"))
    x[:, :, 1, 1] = float("inf")
    assert torch.equal(called.pool(Pool2d(70, (2, 2), (2, 2)), x), F.max_pool2d(x, 2))


def test_a_maximum_of_nan_is_nan(kernel: str) -> None:
    x = torch.randn(1, 16, 3, 3)
    x[0, :, 1, 1] = float("nan")
    assert called.pool(Pool2d(16, (3, 3), (1, 1)), x).isnan().all()


def test_means(kernel: str) -> None:
    for number in range(CASES):
        r = random.Random(number)
        torch.manual_seed(number)
        channels = r.choice(CHANNELS)
        before = some(r, channels)
        x = layout(r, torch.randn(r.randint(1, 3), channels, r.randint(1, 13), r.randint(1, 13)))
        expected = (x if before is None else F.prelu(x, before)).mean((2, 3))
        close(called.mean(x, before), expected, (number, tuple(x.shape)))


@pytest.mark.parametrize("int8", [False, True])
def test_gates(kernel: str, int8: bool) -> None:
    for number in range(CASES):
        r = random.Random(number)
        torch.manual_seed(number)
        channels, hidden, outputs = r.choice(CHANNELS), r.choice([1, 4, 17, 32]), r.choice(CHANNELS)
        images = r.randint(1, 3)
        own, other = torch.randn(2, images, channels)
        mix = some(r, channels)
        weights = {"squeeze": torch.randn(hidden, channels), "excite": 9 * torch.randn(outputs, hidden)}
        scales: dict[str, torch.Tensor] = {}
        if int8:
            scales = {f"{name}_scale": w.abs().amax(1) / 127 for name, w in weights.items()}
            weights = {
                name: (w / scales[f"{name}_scale"][:, None]).round().to(torch.int8) for name, w in weights.items()
            }
        biases = [some(r, hidden), some(r, outputs)]
        products = [
            Dense(weights[name].numpy(), array(bias), array(scales.get(f"{name}_scale")))
            for name, bias in zip(("squeeze", "excite"), biases, strict=True)
        ]
        gate = ChannelGate(*products, array(mix))
        dense = [w * scales[f"{name}_scale"][:, None] if int8 else w for name, w in weights.items()]
        mean = own if mix is None else torch.lerp(own, other, mix)
        expected = F.linear(F.linear(mean, dense[0], biases[0]).relu(), dense[1], biases[1]).sigmoid()
        close(called.gate(gate, own, None if mix is None else other), expected, (number, channels, hidden, outputs))


def test_second_passes(kernel: str) -> None:
    for number in range(2 * CASES):
        r = random.Random(number)
        torch.manual_seed(number)
        channels, images, size = r.choice(CHANNELS), r.randint(1, 3), (r.randint(1, 11), r.randint(1, 11))
        x = layout(r, torch.randn(images, channels, *size))
        gate, multiply, residual = some(r, images, channels), False, None
        if r.random() < 0.7:
            residual, multiply = layout(r, torch.randn(x.shape)), r.random() < 0.5
        scale = some(r, channels)
        bias, inner = None if scale is None else torch.randn(channels), some(r, channels)
        slope = None if residual is None else some(r, channels)
        values = (array(slope), array(scale), array(bias), array(inner))
        layer = FusedElementwise(activation(r, channels), multiply, *values)
        t = x if gate is None else x * gate[:, :, None, None]
        added = residual if slope is None or residual is None else F.prelu(residual, slope)
        t = t * added if multiply and added is not None else t
        if scale is not None and bias is not None:
            t = t * scale.view(-1, 1, 1) + bias.view(-1, 1, 1)
        t = t if inner is None else F.prelu(t, inner)
        t = t if added is None else t + added
        close(called.elementwise(layer, x, gate, residual), activated(t, layer.activation), (number, tuple(x.shape)))


def test_threads_give_the_same() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 32, 40, 40).contiguous(memory_format=torch.channels_last)
    wide, narrow = torch.randn(64, 32, 3, 3).numpy(), torch.randn(64, 32, 1, 1).numpy()
    maxima = Pool2d(64, (3, 3), (2, 2), (1, 1))
    layers = [
        Conv2d(wide, Activation(64), padding=(1, 1)),
        Conv2d(narrow, Activation(64), pool=2),
        Conv2d(wide, Activation(64), padding=(1, 1), maxima=maxima),
    ]
    pass_ = FusedElementwise(Activation(32), scale=torch.randn(32).numpy(), bias=torch.randn(32).numpy())
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found = [called.conv2d(layer, x) for layer in layers]
            found += [called.pool(Pool2d(32, (3, 3), (2, 2), (1, 1)), x), called.mean(x)]
            results.append([*found, called.elementwise(pass_, x)])
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)
