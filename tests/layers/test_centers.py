"""Layers of centered and of quantized values: exact sums first, and equal to the authors' products to rounding."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.binarizers import (
    AdaBinInput,
    AdaBinWeights,
    DoReFaInput,
    DoReFaWeights,
    Libra,
    ReCUInput,
    ReCUWeights,
    SignSTE,
    TernaryWeights,
    XNORScale,
)
from bnn_lightning.deploy import pack
from bnn_lightning.deploy.export.onnx_rewrite import exact
from bnn_lightning.layers import BinaryConv1d, BinaryConv2d, BinaryConv3d, BinaryConvTranspose2d, BinaryLinear
from bnn_lightning.metrics import ace, estimate_energy, operations, size_bytes
from bnn_lightning.metrics.ops import count_ops, ops_table

Pair = tuple[Any, Any]


def adabin() -> Pair:
    inputs = AdaBinInput()
    inputs.alpha.data.fill_(0.7)
    inputs.beta.data.fill_(0.3)
    return inputs, AdaBinWeights()


LAYERS: dict[str, Any] = {
    "linear": (lambda **b: BinaryLinear(6, 4, **b), (6,)),
    "conv1d": (lambda **b: BinaryConv1d(4, 6, 3, padding=1, stride=2, **b), (4, 9)),
    "conv2d": (lambda **b: BinaryConv2d(4, 6, 3, padding=(2, 1), **b), (4, 6, 5)),
    "unpadded": (lambda **b: BinaryConv2d(4, 6, 3, bias=False, **b), (4, 6, 5)),
    "grouped": (lambda **b: BinaryConv2d(4, 6, 3, padding=1, groups=2, dilation=2, **b), (4, 6, 5)),
    "plus": (lambda **b: BinaryConv2d(4, 6, 3, padding=1, pad_value=1, **b), (4, 6, 5)),
    "minus": (lambda **b: BinaryConv2d(4, 6, 3, padding=1, pad_value=-1, **b), (4, 6, 5)),
    "conv3d": (lambda **b: BinaryConv3d(4, 6, 2, padding=1, **b), (4, 3, 4, 5)),
    "transposed": (lambda **b: BinaryConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2, **b), (4, 4, 5)),
}
PAIRS: dict[str, Any] = {
    "adabin": adabin,
    "adabin input, libra": lambda: (adabin()[0], Libra()),
    "sign, adabin weights": lambda: (SignSTE(), AdaBinWeights()),
    "real, adabin weights": lambda: (None, AdaBinWeights()),
    "dorefa": lambda: (DoReFaInput(2), DoReFaWeights(3)),
    "dorefa, ternary": lambda: (DoReFaInput(4), TernaryWeights()),
    "sign, ternary": lambda: (SignSTE(), TernaryWeights(0.05, scaled=False)),
}


def values_of_input(layer: Any, x: Tensor) -> Tensor:
    """Return the values that the signs of `x` stand for, with the layer's padding around them."""
    binarizer, margins = layer.input_binarizer, list(getattr(layer, "_reversed_padding_repeated_twice", ()))
    if isinstance(layer, BinaryConvTranspose2d):
        margins = []  # its padding cuts outputs off
    if binarizer is None:
        return F.pad(x, margins, value=getattr(layer, "pad_value", 0.0))
    signs, scale, offset = binarizer(x), binarizer.scale(), binarizer.offset()
    inside = torch.ones_like(signs)
    if getattr(layer, "pad_value", 0.0):
        signs, inside = F.pad(signs, margins, value=layer.pad_value), F.pad(inside, margins, value=1.0)
    y = signs * (1 if scale is None else scale)
    y = y if offset is None else y + offset * inside
    return F.pad(y, margins) if y.shape == x.shape else y


def values_of_weight(layer: Any) -> Tensor:
    binarizer, filters = layer.weight_binarizer, layer.filters(layer.weight)
    signs, scale = binarizer.binarize(filters)
    offset, shape = binarizer.offset(filters), (-1, *[1] * (filters.dim() - 1))
    value = signs if scale is None else signs * scale.view(shape)
    return layer.from_filters(value if offset is None else value + offset.view(shape))


def authors_product(layer: Any, x: Tensor) -> Tensor:
    """Multiply the values themselves, padded as the layer pads."""
    a, w = values_of_input(layer, x), values_of_weight(layer)
    if isinstance(layer, BinaryLinear):
        return F.linear(a, w, layer.bias)
    if isinstance(layer, BinaryConvTranspose2d):
        geometry = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
        return F.conv_transpose2d(a, w, layer.bias, *geometry)  # type: ignore[arg-type]
    return type(layer).convolve(a, w, layer.bias, layer.stride, 0, layer.dilation, layer.groups)


@pytest.mark.parametrize("autocast", [False, True])  # which leaves float64 as it is
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients_are_those_of_the_plain_product(name: str, pair: str, autocast: bool) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    inputs, weights = PAIRS[pair]()
    layer: nn.Module = make(input_binarizer=inputs, weight_binarizer=weights).double()
    x = torch.randn(3, *shape, dtype=torch.float64)
    results = []
    for function in (layer, lambda v: authors_product(layer, v)):
        leaf = x.clone().requires_grad_()
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and function is layer):
            y = function(leaf)
        (y * torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y)).sum().backward()
        results.append([y.detach(), leaf.grad, *(p.grad for p in layer.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert ours is not None
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", LAYERS)
def test_maps_of_sixteen_bits_stay_so(name: str, pair: str) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    inputs, weights = PAIRS[pair]()
    layer = make(input_binarizer=inputs, weight_binarizer=weights)
    x = torch.randn(3, *shape).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x.float()), rtol=0.05, atol=0.05)


class LiftedConv(BinaryConv2d):
    def add_centers(self, *args: Any, **options: Any) -> Tensor:
        return super().add_centers(*args, **options) + 5


class ClampedConv(BinaryConv2d):
    def dot(self, *args: Any, **options: Any) -> Tensor:
        return super().dot(*args, **options).clamp(-8, 8)


class PatchedConv(BinaryConv2d):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.add_centers = lambda y, *rest, **options: y + 5  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", [LiftedConv, ClampedConv, PatchedConv])
def test_autocast_keeps_what_a_layer_does_to_its_sums(kind: type[BinaryConv2d]) -> None:
    torch.manual_seed(5)
    layer = kind(16, 8, 3, input_binarizer=SignSTE(), weight_binarizer=XNORScale())
    x = torch.randn(2, 16, 7, 7)
    plain = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x).float(), plain, rtol=0.05, atol=0.05)


def test_zero_stays_zero_where_weights_take_the_scale() -> None:
    torch.manual_seed(4)
    layer = BinaryConv2d(64, 8, 3, bias=False, input_binarizer=SignSTE(), weight_binarizer=XNORScale())
    x = torch.randn(4, 64, 16, 16)
    zero = F.conv2d(x.sign(), layer.binary_weight) == 0
    assert zero.any()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x) == 0, zero)


@pytest.mark.parametrize("pair", ["adabin", "dorefa", "sign, ternary"])
def test_the_products_are_exact_whole_numbers(pair: str) -> None:
    torch.manual_seed(1)
    inputs, weights = PAIRS[pair]()
    layer = BinaryConv2d(64, 32, 3, padding=1, bias=False, input_binarizer=inputs, weight_binarizer=weights)
    seen, dot = [], layer.dot
    layer.dot = lambda *args, **kwargs: seen.append(dot(*args, **kwargs)) or seen[-1]  # type: ignore
    x = torch.randn(4, 64, 9, 9)
    y = layer(x)
    assert all(torch.equal(product, product.round()) for product in seen)
    assert len(seen) == (2 if pair == "adabin" else 1)
    # So the layout and the batch change no bit.
    assert torch.equal(layer(x.to(memory_format=torch.channels_last)), y)
    assert torch.equal(layer(x[2:3])[0], y[2])


def test_the_four_terms_in_their_order_to_the_bit() -> None:
    """Operations of a packed layer: the sums of the specification, and the operations in float32."""
    torch.manual_seed(2)
    inputs, weights = adabin()
    layer = BinaryConv2d(5, 3, 3, padding=1, bias=False, input_binarizer=inputs, weight_binarizer=weights)
    x = torch.randn(2, 5, 4, 6)
    with torch.no_grad():
        s, r = inputs(x), layer.binary_weight
        gain, shift = inputs.scale(), inputs.offset()
        scale, offset = weights.scale(layer.weight).view(-1, 1, 1), weights.offset(layer.weight).view(-1, 1, 1)
        inside = torch.ones(1, 5, 4, 6)
        both = F.conv2d(s, r, padding=1)
        of_s = F.conv2d(s, torch.ones(1, 5, 3, 3), padding=1)
        of_r = F.conv2d(inside, r, padding=1)
        taps = F.conv2d(inside, torch.ones(1, 5, 3, 3), padding=1)
        expected = both * (gain * scale) + (gain * offset) * of_s + shift * (of_r * scale + offset * taps)
        assert torch.equal(layer(x), expected)


@pytest.mark.parametrize(
    "name", ["conv2d", *(pytest.param(n, marks=pytest.mark.slow) for n in ("linear", "transposed"))]
)
def test_they_compile_export_and_train_under_autocast(name: str) -> None:
    torch.manual_seed(3)
    make, shape = LAYERS[name]
    inputs, weights = adabin()
    layer = make(input_binarizer=inputs, weight_binarizer=weights)
    x = torch.randn(3, *shape)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    program = torch.export.export(layer.eval(), (x,))
    torch.testing.assert_close(program.module()(x), layer(x))
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize(("pair", "named"), [("adabin", "AdaBinInput"), ("sign, adabin weights", "AdaBinWeights")])
def test_onnx_refuses_centers_by_name(pair: str, named: str) -> None:
    inputs, weights = PAIRS[pair]()
    net = nn.Sequential(BinaryConv2d(3, 4, 3, input_binarizer=inputs, weight_binarizer=weights)).eval()
    with pytest.raises(ValueError, match=f"`0` cannot be written as ONNX: .*{named}"):
        exact(net)


def test_pack_refuses_centered_weights_of_real_inputs() -> None:
    net = nn.Sequential(BinaryConv2d(3, 4, 3, weight_binarizer=AdaBinWeights())).eval()
    with pytest.raises(ValueError, match=r"`0` can be neither packed nor .*AdaBinWeights"):
        pack(net, torch.rand(1, 3, 5, 5))


@pytest.mark.parametrize(
    ("pair", "named"),
    [("dorefa", "DoReFaInput has 2-bit"), ("sign, ternary", "TernaryWeights has 2-bit")],
)
def test_pack_refuses_few_bits_by_name(pair: str, named: str) -> None:
    inputs, weights = PAIRS[pair]()
    net = nn.Sequential(BinaryConv2d(3, 4, 3, input_binarizer=inputs, weight_binarizer=weights)).eval()
    for refusing in (lambda: pack(net, torch.rand(1, 3, 5, 5)), lambda: exact(net)):
        with pytest.raises(ValueError, match=f"`0` can be neither packed nor .*{named}"):
            refusing()


def test_counts_of_few_bits_and_centers() -> None:
    net = nn.Sequential(
        BinaryConv2d(4, 8, 3, bias=False, input_binarizer=DoReFaInput(4), weight_binarizer=DoReFaWeights(2)),
        BinaryConv2d(8, 8, 1, bias=False, input_binarizer=SignSTE(), weight_binarizer=TernaryWeights()),
        BinaryConv2d(8, 2, 1, bias=False, weight_binarizer=DoReFaWeights(3)),
        BinaryConv2d(2, 6, 3, padding=1, bias=False, input_binarizer=AdaBinInput(), weight_binarizer=AdaBinWeights()),
        BinaryConv2d(6, 2, 1, bias=False, input_binarizer=SignSTE(), weight_binarizer=XNORScale()),
    )
    count = count_ops(net, (4, 6, 6))
    first, second, third, fourth, fifth = (row for row in count.layers if row.kind == "BinaryConv2d")
    few = 8 * 4 * 9 * 16
    assert (first.low_bit_macs, first.low_bit_weights, first.weight_bits, first.input_bits) == (few, 288, 2, 4)
    assert first.bit_products == few * 2 * 4
    assert (second.low_bit_macs, second.bit_products) == (8 * 8 * 16, 2 * 8 * 8 * 16)
    assert (third.mixed_macs, third.mixed_products, third.input_bits) == (256, 768, None)
    # A filter of ones beside the six; sums of weights are constants.
    assert (fourth.binary_macs, fourth.low_bit_macs) == ((6 + 1) * 2 * 9 * 16, 0)
    assert (count.float_macs, fifth.binary_macs) == (0, 6 * 2 * 16)
    products = few * 8 + 2 * 1024 + 7 * 288 + 192
    assert operations(count) == products / 64 + 256
    assert ace(count) == products + 16 * 768
    bits = 288 * 2 + 64 * 2 + 16 * 3 + 108 + 12
    assert size_bytes(count) == -(-bits // 8) + 4 * 2  # alpha and beta are real
    assert estimate_energy(count).weights == pytest.approx((bits + 64) * 640 / 32)
    header = ops_table(count).splitlines()[0]
    assert all(column in header for column in ("low-bit weights", "low-bit MACs", "mixed MACs"))
    assert "low-bit" not in ops_table(count_ops(net[4:], (6, 4, 4)))


def test_recu_packs() -> None:
    torch.manual_seed(4)
    net = nn.Sequential(
        *(BinaryConv2d(4, 4, 3, padding=1, input_binarizer=ReCUInput(), weight_binarizer=ReCUWeights(4)) for _ in "ab")
    ).eval()
    x = torch.randn(2, 4, 6, 6)
    packed = pack(net, x)
    assert packed.report.packed == ("0", "1")
    with torch.no_grad():
        torch.testing.assert_close(packed(x), net(x), rtol=1e-5, atol=1e-5)
