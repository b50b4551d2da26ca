"""Weights that become binary: value and gradient, the schedule, what is known without the device, combinations."""

import copy
import math

import pytest
import torch
from torch import nn

from bnn_lightning.binarizers import Libra, TemperatureSign, XNORScale, binarizer_factory
from bnn_lightning.functional import geometric_temperature, temperature_sign
from bnn_lightning.layers import BinaryConv2d, BinaryLinear, is_binary


def plain(w: float, temperature: float, threshold: float) -> float:
    if temperature > threshold:
        return max(-1.0, min(1.0, w / temperature))
    return 1.0 if w >= 0 else -1.0


@pytest.mark.parametrize("temperature", [1.0, 0.5, 1e-3, 2e-7, 1e-7, 1e-8, 1e-30, 0.0])
def test_value_is_the_formula(temperature: float) -> None:
    weights = [3e-4, -3e-4, 0.0, -0.0, 1.0, -1.5, 2e-7, 1e-30, -1e-30]
    x = torch.tensor(weights, dtype=torch.float64)
    expected = [plain(w, temperature, 1e-7) for w in weights]
    assert temperature_sign(x, temperature).tolist() == pytest.approx(expected, rel=1e-12, abs=0)


def test_golden_values_of_the_paper() -> None:
    values = [float(temperature_sign(torch.tensor(3e-4), t)) for t in (1.0, 0.5, 1e-3, 2e-7)]
    assert values == pytest.approx([3e-4, 6e-4, 0.3, 1.0])


@pytest.mark.parametrize("temperature", [1.0, 1e-3, 1e-9])
@pytest.mark.parametrize("clip", [math.inf, 1.5])
def test_gradient_is_the_identity_or_clipped(temperature: float, clip: float) -> None:
    x = torch.tensor([-2.0, -1.5, -0.3, 0.0, 1.2, 1.5, 1.6], requires_grad=True)
    grad = torch.arange(1.0, 8.0)
    temperature_sign(x, temperature, clip=clip).backward(grad)
    assert x.grad is not None
    assert torch.equal(x.grad, torch.where(x.detach().abs() > clip, 0.0, grad))


@pytest.mark.parametrize("temperature", [0.1, 1e-9])
def test_nan_does_not_vanish(temperature: float) -> None:
    assert temperature_sign(torch.tensor(math.nan), temperature).isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("progress", [0.0, 0.1, 0.5, 1.0])
def test_any_precision(dtype: torch.dtype, progress: float) -> None:
    binarizer = TemperatureSign(binary_from=0.5)
    binarizer.set_progress(progress)
    binarizer.to(dtype)
    y = binarizer(torch.randn(64, 64, dtype=dtype))
    assert y.dtype == dtype
    assert y.abs().max() <= 1
    assert binarizer.is_binary == (progress >= 0.5) == (y.abs() == 1).all()


def test_published_schedule_is_the_default() -> None:
    binarizer = TemperatureSign()
    for epoch in range(512):
        binarizer.set_progress(epoch / 512)
        expected = 0.9**epoch
        assert geometric_temperature(epoch / 512, binarizer.binary_from) == pytest.approx(expected, rel=1e-12)
        assert float(binarizer.temperature) == pytest.approx(expected, rel=1e-6)
        assert binarizer.is_binary == (epoch >= 153)


@pytest.mark.parametrize("epochs", [2, 10, 100])
def test_a_short_run_ends_binary(epochs: int) -> None:
    binarizer = TemperatureSign()
    binarizer.set_progress(0.0)
    assert not binarizer.is_binary
    binarizer.set_progress((epochs - 1) / epochs)
    assert binarizer.is_binary


@pytest.mark.parametrize("binary_from", [0.0, 0.25, 0.9])
def test_binary_from_is_exact(binary_from: float) -> None:
    binarizer, weight = TemperatureSign(binary_from, threshold=1e-4), torch.tensor([[1e-9, -1e-9, 0.0]])
    if binary_from:
        binarizer.set_progress(binary_from - 1e-6)
        assert not binarizer.is_binary
        assert binarizer(weight).abs().max() < 1
    for dtype in (torch.float32, torch.float64, torch.float16):  # none rounds back over the threshold
        binarizer.set_progress(binary_from)
        assert binarizer.to(dtype).is_binary
        assert binarizer(weight).tolist() == [[1.0, -1.0, 1.0]]


def test_state_that_others_write_is_noticed() -> None:
    source, binarizer = TemperatureSign(), TemperatureSign()
    source.set_progress(0.9)
    assert not binarizer.is_binary
    binarizer.load_state_dict(source.state_dict())
    assert binarizer.is_binary
    binarizer.temperature.fill_(0.5)
    assert not binarizer.is_binary
    assigned = TemperatureSign()
    assigned.load_state_dict({"temperature": torch.tensor(1e-9)}, assign=True)
    assert assigned.is_binary
    assert copy.deepcopy(assigned).is_binary
    assert assigned.double().is_binary
    with torch.inference_mode():
        assert copy.deepcopy(assigned).is_binary


def test_known_without_the_device() -> None:
    # A meta tensor has no values: whatever asks for one fails.
    with torch.device("meta"):
        binarizer = TemperatureSign()
        for progress, binary in ((0.1, False), (0.9, True)):
            binarizer.set_progress(progress)
            assert binarizer.is_binary == binary
            assert binarizer(torch.randn(4, 4)).is_meta
    assert TemperatureSign().to("meta").is_binary is False


@pytest.mark.parametrize("base", ["Libra", "XNORScale", "WeightSign"])
def test_any_weight_binarizer_may_be_the_base(base: str) -> None:
    binarizer = binarizer_factory("TemperatureSign", base=binarizer_factory(base))(4)
    alone = binarizer_factory(base)(4)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    for progress, temperature in ((0.05, 0.9**25.6), (1.0, 0.0)):
        binarizer.set_progress(progress)
        signs, scale = binarizer.binarize(weight)
        latent = alone.latent(weight)
        torch.testing.assert_close(binarizer.latent(weight), latent)
        expected = (latent / temperature).clamp(-1, 1) if temperature else torch.where(latent >= 0, 1.0, -1.0).double()
        torch.testing.assert_close(signs, expected, rtol=1e-6, atol=0)
        expected_scale = alone.scale(weight)
        assert (scale is None) == (expected_scale is None)
        assert scale is None or torch.equal(scale, expected_scale)
    assert binarizer.scale_is_power_of_two == alone.scale_is_power_of_two


def test_base_trains_through_latent_and_scale() -> None:
    weight = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
    linear = BinaryLinear(8, 2, bias=False, weight_binarizer=TemperatureSign(base=lambda _: XNORScale())).double()
    linear.weight = nn.Parameter(weight.detach().clone())
    x = torch.randn(5, 8, dtype=torch.float64)
    linear(x).square().sum().backward()
    ramp = weight + (weight.clamp(-1, 1) - weight).detach()
    ((x @ ramp.T) * weight.abs().mean(1)).square().sum().backward()
    torch.testing.assert_close(linear.weight.grad, weight.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1.0, 1.1e-7, 1e-7, 1e-8, 0.0])
def test_the_least_and_the_largest_numbers(dtype: torch.dtype, temperature: float) -> None:
    limits = torch.finfo(dtype)
    magnitudes = torch.tensor([limits.tiny * limits.eps, limits.tiny, limits.eps, limits.max, math.inf], dtype=dtype)
    x = torch.cat([magnitudes, -magnitudes, torch.zeros(2, dtype=dtype).copysign(torch.tensor([1.0, -1.0]))])
    signs = torch.where(x >= 0, 1.0, -1.0).to(dtype)
    stored = torch.tensor(temperature)  # in single precision
    expected = (x / stored.item()).clamp(-1, 1) if temperature > 1e-7 else signs
    assert torch.equal(temperature_sign(x, stored), expected)


def conv(progress: float, **options: object) -> BinaryConv2d:
    torch.manual_seed(0)
    binarizer = TemperatureSign(**options)  # type: ignore[arg-type]
    binarizer.set_progress(progress)
    return BinaryConv2d(4, 6, 3, padding=1, weight_binarizer=binarizer, bias=False)


@pytest.mark.parametrize("clip", [math.inf, 0.1])
def test_one_compiled_graph_at_every_temperature(clip: float) -> None:
    layer, x = conv(0.0, clip=clip), torch.randn(2, 4, 5, 5)
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    for progress in (0.0, 0.1, 0.5, 1.0):
        layer.weight_binarizer.set_progress(progress)  # type: ignore[operator, union-attr]
        torch.testing.assert_close(compiled(x), layer(x), rtol=0, atol=0)
        ours, theirs = (torch.autograd.grad(f(x).square().sum(), layer.weight) for f in (layer, compiled))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert len(graphs) == 1


@pytest.mark.parametrize("progress", [0.1, 1.0])
def test_exports(progress: float) -> None:
    layer, x = conv(progress).eval(), torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x), rtol=0, atol=0)


def test_functional_transforms() -> None:
    x = torch.randn(3, 4)
    grads = torch.func.vmap(torch.func.grad(lambda row: temperature_sign(row, 0.5, clip=1.0).square().sum()))(x)
    expected = torch.where(x.abs() > 1, 0.0, 2 * (x / 0.5).clamp(-1, 1))
    torch.testing.assert_close(grads, expected)


def test_autocast_rounds_after_the_sign() -> None:
    linear = BinaryLinear(2, 1, bias=False, weight_binarizer=TemperatureSign())
    nn.init.constant_(linear.weight, -1e-30)
    linear.weight_binarizer.set_progress(1.0)  # type: ignore[operator, union-attr]
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(torch.ones(1, 2)).item() == -2


def test_network_is_binary_once_all_are() -> None:
    network = nn.Sequential(conv(1.0), conv(0.0))
    assert not is_binary(network)
    network[1].weight_binarizer.set_progress(0.5)  # type: ignore[operator, union-attr]
    assert is_binary(network)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"binary_from": 1.0}, r"`binary_from` must be at least 0 and below 1 .*, got 1\.0"),
        ({"binary_from": -0.1}, "`binary_from` must be at least 0"),
        ({"threshold": 0.0}, r"`threshold` must lie between 0 and 1, got 0\.0"),
        ({"clip": 0.0}, "`clip` must be positive"),
        ({"base": binarizer_factory("SignSTE")}, "`base` must make a WeightBinarizer, got SignSTE"),
    ],
)
def test_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        binarizer_factory("TemperatureSign", **options)


def test_progress_reaches_the_base() -> None:
    binarizer = TemperatureSign(base=lambda _: Libra())
    binarizer.set_progress(1.0)
    assert isinstance(binarizer.base, Libra)
    assert float(binarizer.base.t) == 10.0
