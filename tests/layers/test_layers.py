"""Binary layers against torch's own, against plain float64 arithmetic and against the published test vector A7."""

import copy
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.binarizers import Libra, SignEDE, SignIdentity, SignSTE, WeightSign, XNORScale
from bnn_lightning.layers import BinaryConv2d, BinaryLinear, binary_layers, clip_latent_, is_binary, latent_weights

GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": (2, 1), "stride": 2},
    {"kernel_size": (1, 3), "dilation": 2},
    {"kernel_size": 3, "padding": "same", "groups": 4},
    {"kernel_size": 1, "bias": False},
]
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)


@every_geometry
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_without_binarizers_it_is_torchs_convolution(geometry: dict[str, Any], padding_mode: str) -> None:
    torch.manual_seed(0)
    ours = BinaryConv2d(4, 8, padding_mode=padding_mode, **geometry)
    torch.manual_seed(0)
    theirs = nn.Conv2d(4, 8, padding_mode=padding_mode, **geometry)
    x = torch.randn(2, 4, 7, 7)
    assert torch.equal(ours(x), theirs(x))
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_without_binarizers_it_is_torchs_linear_layer() -> None:
    torch.manual_seed(0)
    ours = BinaryLinear(5, 3)
    torch.manual_seed(0)
    theirs = nn.Linear(5, 3)
    x = torch.randn(2, 5)
    assert torch.equal(ours(x), theirs(x))


@every_geometry
@pytest.mark.parametrize("pad_value", [0.0, -1.0, 1.0])
@pytest.mark.parametrize("weight_binarizer", [WeightSign, XNORScale, Libra])
def test_binary_convolution_is_sign_pad_dot_scale_bias(
    geometry: dict[str, Any], pad_value: float, weight_binarizer: type
) -> None:
    torch.manual_seed(1)
    conv = BinaryConv2d(
        4,
        8,
        dtype=torch.float64,
        input_binarizer=SignSTE(),
        weight_binarizer=weight_binarizer(),
        pad_value=pad_value,
        **geometry,
    )
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    weight = conv.weight.detach()
    if weight_binarizer is Libra:
        centered = weight - weight.mean((1, 2, 3), keepdim=True)
        standard = centered / centered.std((1, 2, 3), keepdim=True)
        scale = torch.exp2(torch.log2(standard.abs().mean((1, 2, 3))).round())
        signs = torch.where(centered >= 0, 1.0, -1.0).double()
    else:
        scale = weight.abs().mean((1, 2, 3)) if weight_binarizer is XNORScale else torch.ones(8, dtype=torch.float64)
        signs = torch.where(weight >= 0, 1.0, -1.0).double()
    padded = F.pad(
        torch.where(x >= 0, 1.0, -1.0).double(),
        nn.Conv2d(4, 8, **geometry)._reversed_padding_repeated_twice,
        value=pad_value,
    )
    dot = F.conv2d(padded, signs, None, conv.stride, 0, conv.dilation, conv.groups)
    expected = dot * scale[:, None, None] + (0 if conv.bias is None else conv.bias[:, None, None])
    torch.testing.assert_close(conv(x), expected, rtol=1e-13, atol=1e-13)
    assert torch.equal(conv.binary_weight, signs)


def test_vector_a7_of_the_specification() -> None:
    """Reference values of a 2->2 Libra convolution with EDE at t = 0.5: output, gradients, teacher's swapped output."""
    conv = BinaryConv2d(
        2, 2, 2, bias=False, dtype=torch.float64, input_binarizer=SignEDE(), weight_binarizer=Libra(eps=1e-12)
    )
    for binarizer in (conv.input_binarizer, conv.weight_binarizer):
        assert isinstance(binarizer, SignEDE | Libra)
        binarizer.t.fill_(0.5)
    weight = [1, 2, -3, 4, 0.5, -1, 2, -2, 3, 3, 3, -1, 0.1, 0.2, 0.3, 0.4]
    conv.weight.data = torch.tensor(weight, dtype=torch.float64).view(2, 2, 2, 2)
    x = torch.linspace(-1, 1, 18, dtype=torch.float64).view(1, 2, 3, 3).requires_grad_()
    y = conv(x)
    (y.flatten() * torch.arange(8.0, dtype=torch.float64)).sum().backward()

    def close(got: Tensor | None, expected: str) -> None:
        assert got is not None
        values = torch.tensor([float(number) for number in expected.split()], dtype=torch.float64)
        torch.testing.assert_close(got.flatten(), values, rtol=0, atol=6e-6)

    close(conv.latent_weight.abs().flatten(1).mean(1).detach(), "0.78755 0.87272")
    close(y.detach(), "-2 -2 -2 -2 -6 -6 -6 -6")
    teacher = torch.cos(torch.arange(18.0, dtype=torch.float64)).view(1, 2, 3, 3)
    close(torch.copysign(y, conv.dot(teacher, conv.latent_weight)).detach(), "2 2 -2 -2 6 -6 -6 6")
    close(
        conv.weight.grad,
        "-2.56872 -2.08244 -2.58968 -0.77416 2.43686 1.82678 2.54307 1.20829 "
        "-3.07214 -3.07214 -3.07214 -20.01528 6.32009 6.99126 7.64387 8.27649",
    )
    close(
        x.grad,
        "3.14579 8.28091 5.20175 10.82666 16.79541 5.75269 3.91473 0 -3.99654 "
        "-3.99654 -7.93804 -5.87209 -7.67026 -18.66157 -14.43555 -3.46783 -9.93709 -7.86448",
    )


def test_folding_a_power_of_two_changes_no_bit() -> None:
    torch.manual_seed(0)
    conv = BinaryConv2d(16, 8, 3, padding=1, bias=False, input_binarizer=SignIdentity(), weight_binarizer=Libra())
    with torch.no_grad():
        conv.weight[::2] = torch.where(torch.rand_like(conv.weight[::2]) < 0.02, 9.0, 0.001)  # scales below 1
    x = torch.randn(4, 16, 9, 9)
    assert conv.weight_binarizer is not None
    scale = conv.weight_binarizer.scale(conv.weight)
    assert scale is not None
    assert set(scale.tolist()) > {1.0}
    after = F.conv2d(torch.where(x >= 0, 1.0, -1.0), conv.binary_weight, padding=1) * scale[:, None, None]
    assert torch.equal(conv(x), after)


def test_sums_are_exact_integers_whatever_the_layout_and_batch() -> None:
    torch.manual_seed(0)
    conv = BinaryConv2d(64, 32, 3, padding=1, bias=False, input_binarizer=SignSTE(), weight_binarizer=WeightSign())
    x = torch.randn(8, 64, 9, 9)
    y = conv(x)
    assert torch.equal(y, y.round())
    assert torch.equal(conv(x.to(memory_format=torch.channels_last)), y)
    assert torch.equal(conv(x[3:4])[0], y[3])


def test_channels_last_is_kept() -> None:
    conv = BinaryConv2d(8, 8, 3, padding=1, bias=False, input_binarizer=SignEDE(), weight_binarizer=Libra())
    conv = conv.to(memory_format=torch.channels_last)
    x = torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last).requires_grad_()
    y = conv(x)
    y.sum().backward()
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert x.grad is not None
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


def test_real_valued_input_may_meet_binary_weights() -> None:
    linear = BinaryLinear(4, 2, bias=False, weight_binarizer=WeightSign())
    x = torch.randn(3, 4)
    assert torch.equal(linear(x), x @ torch.where(linear.weight >= 0, 1.0, -1.0).T)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
def test_it_trains_under_autocast(autocast: torch.dtype | None) -> None:
    torch.manual_seed(0)
    conv = BinaryConv2d(8, 8, 3, padding=1, input_binarizer=SignSTE(), weight_binarizer=Libra())
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        y = conv(x)
    y.float().sum().backward()
    for gradient in (x.grad, conv.weight.grad):
        assert gradient is not None
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("layer", ["conv", "linear"])
def test_it_compiles_and_exports(layer: str) -> None:
    torch.manual_seed(0)
    module: nn.Module
    if layer == "conv":
        module = BinaryConv2d(4, 4, 3, padding=1, input_binarizer=SignEDE(), weight_binarizer=Libra())
        x = torch.randn(2, 4, 6, 6)
    else:
        module = BinaryLinear(4, 4, input_binarizer=SignSTE(), weight_binarizer=XNORScale())
        x = torch.randn(2, 4)
    module, x = module.double(), x.double()  # the gradient of standardized weights is a small difference of large sums
    compiled = copy.deepcopy(module)
    compiled.compile(fullgraph=True, backend="aot_eager")
    module(x).pow(2).sum().backward()
    compiled(x).pow(2).sum().backward()
    for ours, theirs in zip(module.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad)
    program = torch.export.export(module.eval(), (x,))
    torch.testing.assert_close(program.module()(x), module(x))


def test_from_conv_shares_parameters() -> None:
    conv = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
    binary = BinaryConv2d.from_conv(conv, input_binarizer=SignSTE(), weight_binarizer=WeightSign(), pad_value=-1)
    assert binary.weight is conv.weight
    assert binary.bias is conv.bias
    assert binary(torch.randn(1, 4, 8, 8)).shape == (1, 8, 4, 4)
    linear = nn.Linear(4, 2, bias=False)
    assert BinaryLinear.from_linear(linear, weight_binarizer=WeightSign()).weight is linear.weight


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pad_value": 0.5}, "`pad_value` must be 0, -1 or \\+1"),
        ({"padding_mode": "reflect", "weight_binarizer": WeightSign()}, '`padding_mode` must be "zeros"'),
        ({"padding_mode": "reflect", "pad_value": -1}, '`padding_mode` must be "zeros"'),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BinaryConv2d(4, 4, 3, **options)


def test_the_tree_finds_binary_layers_and_clips_latent_weights() -> None:
    shared = BinaryLinear(4, 4, weight_binarizer=WeightSign())
    net = nn.Sequential(nn.Linear(4, 4), shared, nn.Sequential(shared), BinaryLinear(4, 4))
    assert list(binary_layers(net)) == ["1"]
    assert list(latent_weights(net)) == ["1.weight"]
    assert is_binary(net)
    nn.init.constant_(shared.weight, 3.0)
    nn.init.constant_(net[0].weight, 3.0)
    clip_latent_(net, 0.5)
    assert shared.weight.unique().tolist() == [0.5]
    assert net[0].weight.unique().tolist() == [3.0]
    with pytest.raises(ValueError, match="`limit` must be positive, got 0"):
        clip_latent_(net, 0)


def test_a_non_leaf_gradient_reaches_both_operands() -> None:
    for bias, scale in product((True, False), (WeightSign(), Libra())):
        conv = BinaryConv2d(2, 2, 3, bias=bias, input_binarizer=SignIdentity(), weight_binarizer=scale)
        x = torch.randn(1, 2, 4, 4, requires_grad=True)
        conv(x * 2).sum().backward()
        assert x.grad is not None
        assert conv.weight.grad is not None
