"""Quantised layers against the formula, value by value, and their gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.functional import minmax_quantize
from bnn_lightning.layers import ChannelBlend, QuantConv2d, QuantLinear
from bnn_lightning.models import create_backbone


def plain_row(row: Tensor, bits: int, clip: float) -> Tensor:
    """One row, as published: lo + (hi - lo + 1e-8) q / (2^b - 1)."""
    levels = 2**bits - 1
    clipped = [min(max(float(v), -clip), clip) for v in row.flatten()]
    low, extent = min(clipped), max(clipped) - min(clipped) + 1e-8
    values = [round((v - low) / extent * levels) / levels * extent + low for v in clipped]
    return torch.tensor(values, dtype=torch.float64).view(row.shape)


def plain_weight(weight: Tensor, bits: int, clip: float) -> Tensor:
    rows = []
    for filter in weight:
        unit = 2 * filter.abs().mean()
        if filter.dim() == 3 and filter.shape[1:].numel() > 1:
            rows.append(torch.stack([plain_row(kernel / unit, bits, clip) * unit for kernel in filter]))
        else:
            rows.append(plain_row(filter / unit, bits, clip) * unit)
    return torch.stack(rows)


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_value_is_the_formula(bits: int) -> None:
    x = torch.randn(5, 7, dtype=torch.float64)
    x[0], x[1, 0] = 3.0, 100.0  # a constant row, a value beyond the clip
    expected = torch.stack([plain_row(row, bits, 25.0) for row in x])
    quantised = minmax_quantize(x, bits, clip=25.0)
    torch.testing.assert_close(quantised, expected, rtol=1e-12, atol=1e-12)
    assert all(len(row.unique()) <= 2**bits for row in quantised)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_that_of_the_formula_rounded_once(dtype: torch.dtype) -> None:
    x = torch.randn(5, 7).to(dtype)
    x[0] = 3.0  # a constant row, whose range of 1e-8 is 0 in float16
    quantised = minmax_quantize(x, 8, clip=25.0)
    assert quantised.dtype == dtype
    assert torch.equal(quantised, minmax_quantize(x.float(), 8, clip=25.0).to(dtype))
    assert torch.equal(quantised[0], x[0])


def test_gradient_goes_straight_through_within_the_clip() -> None:
    x = torch.tensor([[-26.0, -25.0, 0.1, 25.0, 25.1]], requires_grad=True)
    minmax_quantize(x, 2, clip=25.0).backward(torch.arange(1.0, 6.0)[None])
    assert x.grad is not None
    assert x.grad.tolist() == [[0.0, 2.0, 3.0, 4.0, 0.0]]


@pytest.mark.parametrize(("kernel_size", "input_bits"), [(3, None), (1, 8), (1, 4)])
def test_convolution_is_the_formula(kernel_size: int, input_bits: int | None) -> None:
    conv = QuantConv2d(3, 4, kernel_size, padding=kernel_size // 2, weight_bits=4, input_bits=input_bits).double()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    weight = plain_weight(conv.weight.detach(), 4, 1000.0)
    seen = x if input_bits is None else torch.stack([plain_row(image, input_bits, 1000.0) for image in x])
    expected = F.conv2d(seen, weight, conv.bias, 1, kernel_size // 2)
    torch.testing.assert_close(conv(x), expected, rtol=1e-10, atol=1e-10)


def test_linear_is_the_formula_with_identity_gradients() -> None:
    linear = QuantLinear(6, 4, weight_bits=8, input_bits=8).double()
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    weight = plain_weight(linear.weight.detach(), 8, 25.0)
    seen = torch.stack([plain_row(row, 8, 25.0) for row in x.detach()])
    y = linear(x)
    torch.testing.assert_close(y, seen @ weight.T + linear.bias, rtol=1e-10, atol=1e-10)
    y.backward(upstream := torch.randn_like(y))
    torch.testing.assert_close(x.grad, upstream @ weight)
    torch.testing.assert_close(linear.weight.grad, upstream.T @ seen)


@pytest.mark.parametrize("make", [lambda: QuantConv2d(3, 4, 3, bias=False), lambda: QuantLinear(3, 4)])
def test_same_tensors_as_torchs(make: object) -> None:
    torch.manual_seed(0)
    ours = make()  # type: ignore[operator]
    torch.manual_seed(0)
    theirs = nn.Linear(3, 4) if isinstance(ours, nn.Linear) else nn.Conv2d(3, 4, 3, bias=False)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_errors() -> None:
    for bits in (0, 17, 2.5, True):
        with pytest.raises(ValueError, match="`weight_bits` must be a whole number between 1 and 16"):
            QuantLinear(2, 2, weight_bits=bits)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["bnext_tiny", "bnext18"])
@pytest.mark.parametrize("se_bits", [8, 4])
def test_networks_train_with_it_and_every_mix_scale_has_its_gradient(name: str, se_bits: int) -> None:
    torch.manual_seed(0)
    options = {"depths": (1,)} if name == "bnext_tiny" else {}
    network = create_backbone(
        name, num_classes=3, image_size=16, width=16, quant=True, se_bits=se_bits, latent_std=0.1, **options
    )
    layers = [m for m in network.modules() if isinstance(m, QuantConv2d | QuantLinear)]
    gates = [m for key, m in network.named_modules() if isinstance(m, QuantConv2d) and ".gate." in key]
    mixes = [m for m in network.modules() if isinstance(m, ChannelBlend)]
    assert len(gates) == 2 * len(mixes)
    inputs = se_bits * (2 if name == "bnext18" else 1)
    assert {(m.weight_bits, m.input_bits) for m in gates} == {(se_bits, inputs)}
    others = [(m.weight_bits, m.input_bits) for m in layers if m not in gates]
    assert others == [(8, None), *[(8, 8)] * (4 if name == "bnext18" else 1)]
    network(torch.rand(4, 3, 16, 16)).square().sum().backward()
    assert all(m.scale.grad is not None for m in mixes)
    assert sum(bool(m.scale.grad.any()) for m in mixes) > len(mixes) // 2  # a gate's ReLU may be off for a batch


def test_quantised_networks_compile_and_export() -> None:
    options = {"num_classes": 3, "image_size": 16, "width": 8, "depths": (1,), "quant": True}
    network = create_backbone("bnext_tiny", **options).eval()
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(torch.export.export(network, (images,)).module()(images), network(images))
