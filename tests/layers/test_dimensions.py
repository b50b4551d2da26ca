"""Convolutions in one and three dimensions, transposed, depthwise and separable: against torch's and plain sums."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.binarizers import AdaBinInput, AdaBinWeights, Libra, RSign, SignSTE, WeightSign, XNORScale
from bnn_lightning.deploy import Comparison, GraphError, PackedInfo, Repacker, load, pack, save
from bnn_lightning.deploy.export.onnx_rewrite import exact
from bnn_lightning.layers import BinaryConv1d, BinaryConv2d, BinaryConv3d, BinaryConvTranspose2d
from bnn_lightning.metrics.ops import count_ops

SIZES = {1: (9,), 2: (7, 6), 3: (5, 6, 4)}
KINDS: dict[int, tuple[Any, type[nn.Module], Any]] = {
    1: (BinaryConv1d, nn.Conv1d, F.conv1d),
    2: (BinaryConv2d, nn.Conv2d, F.conv2d),
    3: (BinaryConv3d, nn.Conv3d, F.conv3d),
}
GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 2, "stride": 2, "bias": False},
    {"kernel_size": 2, "dilation": 2},
    {"kernel_size": 3, "padding": "same", "groups": 2},
    {"kernel_size": 3, "padding": 1, "groups": 4},
]
TRANSPOSED: list[dict[str, Any]] = [
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "bias": False},
    {"kernel_size": (3, 2), "dilation": 2, "groups": 2},
    {"kernel_size": 3, "groups": 4},
]
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)


def signs_of(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


@every_geometry
@pytest.mark.parametrize("dims", [1, 3])
def test_without_binarizers_it_is_torchs_to_the_bit(dims: int, geometry: dict[str, Any]) -> None:
    ours, theirs, _ = KINDS[dims]
    torch.manual_seed(0)
    binary = ours(4, 8, **geometry)
    torch.manual_seed(0)
    plain = theirs(4, 8, **geometry)
    x = torch.randn(2, 4, *SIZES[dims])
    assert torch.equal(binary(x), plain(x))
    assert torch.equal(binary(x[0]), plain(x[0]))
    assert binary.state_dict().keys() == plain.state_dict().keys()
    shared = ours.from_conv(plain)
    assert shared.weight is plain.weight
    assert torch.equal(shared(x), plain(x))


@every_geometry
@pytest.mark.parametrize("pad_value", [0.0, -1.0, 1.0])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_binary_convolution_is_sign_pad_dot_scale_bias(dims: int, pad_value: float, geometry: dict[str, Any]) -> None:
    ours, theirs, convolve = KINDS[dims]
    torch.manual_seed(1)
    conv = ours(4, 8, input_binarizer=SignSTE(), weight_binarizer=XNORScale(), pad_value=pad_value, **geometry)
    x = torch.randn(2, 4, *SIZES[dims])
    margins = theirs(4, 8, **geometry)._reversed_padding_repeated_twice  # type: ignore[operator]
    padded = F.pad(signs_of(x), list(margins), value=pad_value)  # type: ignore[arg-type]
    dot = convolve(padded, signs_of(conv.weight), None, conv.stride, 0, conv.dilation, conv.groups)
    assert torch.equal(dot, dot.round())
    per_channel = (-1, *[1] * dims)
    expected = dot * conv.weight.abs().flatten(1).mean(1).view(per_channel)
    expected = expected if conv.bias is None else expected + conv.bias.view(per_channel)
    assert torch.equal(conv(x), expected)
    assert torch.equal(conv.binary_weight, signs_of(conv.weight))


@pytest.mark.parametrize("geometry", TRANSPOSED, ids=str)
def test_transposed_without_binarizers_is_torchs_to_the_bit(geometry: dict[str, Any]) -> None:
    torch.manual_seed(0)
    binary = BinaryConvTranspose2d(4, 8, **geometry)
    torch.manual_seed(0)
    plain = nn.ConvTranspose2d(4, 8, **geometry)
    x = torch.randn(2, 4, 5, 6)
    assert torch.equal(binary(x), plain(x))
    assert torch.equal(BinaryConvTranspose2d.from_conv(plain)(x), plain(x))
    assert BinaryConvTranspose2d.from_conv(plain).weight is plain.weight
    if geometry.get("stride") == 2 and "output_padding" not in geometry:
        assert torch.equal(binary(x, [11, 12]), plain(x, [11, 12]))


@pytest.mark.parametrize("geometry", TRANSPOSED, ids=str)
def test_binary_transposed_convolution_scales_by_output_channel(geometry: dict[str, Any]) -> None:
    torch.manual_seed(2)
    up = BinaryConvTranspose2d(4, 8, input_binarizer=SignSTE(), weight_binarizer=XNORScale(), **geometry)
    x = torch.randn(2, 4, 5, 6)
    dot = F.conv_transpose2d(
        signs_of(x),
        signs_of(up.weight),
        None,
        up.stride,
        up.padding,  # type: ignore[arg-type]
        up.output_padding,
        up.groups,
        up.dilation,
    )
    assert torch.equal(dot, dot.round())
    # Output channel o of group g is weight[inputs of g, o within g].
    inputs, outputs = 4 // up.groups, 8 // up.groups
    scale = torch.stack(
        [up.weight[g * inputs : (g + 1) * inputs, o].abs().mean() for g in range(up.groups) for o in range(outputs)]
    )
    expected = dot * scale.view(-1, 1, 1)
    expected = expected if up.bias is None else expected + up.bias.view(-1, 1, 1)
    torch.testing.assert_close(up(x), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(up.binary_weight, signs_of(up.weight))
    assert up.latent_weight.shape == up.weight.shape
    with pytest.raises(ValueError, match="`output_size`"):
        up(x, [11, 12])


def test_transposed_libra_is_that_of_its_filters() -> None:
    torch.manual_seed(3)
    up = BinaryConvTranspose2d(4, 6, 3, groups=2, bias=False, weight_binarizer=Libra())
    for g in range(2):
        for o in range(3):
            row = up.weight[2 * g : 2 * g + 2, o].detach()
            latent = up.latent_weight[2 * g : 2 * g + 2, o].detach()
            torch.testing.assert_close(latent, (row - row.mean()) / row.std(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dims", [1, 3])
def test_learned_thresholds_work_in_every_dimension(dims: int) -> None:
    conv = KINDS[dims][0](4, 4, 3, padding=1, input_binarizer=RSign(4), weight_binarizer=WeightSign())
    x = torch.randn(2, 4, *SIZES[dims], requires_grad=True)
    conv(x).square().sum().backward()
    assert conv.input_binarizer.bias.grad.abs().sum() > 0
    assert conv.weight.grad.isfinite().all()


def separable(channels: int, out_channels: int) -> nn.Sequential:
    """A depthwise 3x3 convolution, batch norm, and a pointwise convolution, both binary."""
    options: dict[str, Any] = {"bias": False}
    return nn.Sequential(
        BinaryConv2d(
            channels,
            channels,
            3,
            padding=1,
            groups=channels,
            input_binarizer=SignSTE(),
            weight_binarizer=WeightSign(),
            **options,
        ),
        nn.BatchNorm2d(channels),
        BinaryConv2d(channels, out_channels, 1, input_binarizer=SignSTE(), weight_binarizer=WeightSign(), **options),
    )


def test_depthwise_sums_are_those_of_each_channel_by_itself() -> None:
    torch.manual_seed(4)
    net, x = separable(6, 8).eval(), torch.randn(2, 6, 7, 7)
    depthwise = net[0](x)
    for channel in range(6):
        alone = F.conv2d(
            signs_of(x[:, channel : channel + 1]), signs_of(net[0].weight[channel : channel + 1]), padding=1
        )
        assert torch.equal(depthwise[:, channel : channel + 1], alone)
    pointwise = F.conv2d(signs_of(net[1](depthwise)), signs_of(net[2].weight))
    assert torch.equal(net(x), pointwise)


def test_counts_of_every_kind() -> None:
    def macs(layer: nn.Module, size: tuple[int, ...]) -> tuple[int, int]:
        row = count_ops(nn.Sequential(layer), size).layers[0]
        assert (row.mixed_macs, row.float_macs) == (0, 0)
        return row.binary_macs, row.binary_weights

    signs: dict[str, Any] = {"input_binarizer": SignSTE(), "weight_binarizer": WeightSign()}
    assert macs(BinaryConv1d(4, 8, 3, padding=1, **signs), (4, 9)) == (8 * 4 * 3 * 9, 96)
    assert macs(BinaryConv3d(4, 8, 3, **signs), (4, 5, 6, 7)) == (8 * 4 * 27 * (3 * 4 * 5), 864)
    assert macs(BinaryConvTranspose2d(4, 8, 3, stride=2, groups=2, **signs), (4, 5, 6)) == (4 * 4 * 9 * 30, 144)
    rows = count_ops(separable(6, 8), (6, 7, 7)).layers
    assert [row.binary_macs for row in rows if row.binary_weights] == [6 * 9 * 49, 6 * 8 * 49]


class Mixed(nn.Module):
    """A 2-d and a 1-d convolution, which pack, and others, which do not."""

    def __init__(self) -> None:
        super().__init__()
        signs: dict[str, Any] = {"input_binarizer": SignSTE(), "weight_binarizer": XNORScale(), "bias": False}
        self.conv = BinaryConv2d(3, 4, 3, padding=1, **signs)
        self.up = BinaryConvTranspose2d(4, 4, 3, stride=2, **signs)
        self.space = BinaryConv3d(4, 4, (1, 3, 3), **signs)
        self.line = BinaryConv1d(4, 5, 3, **signs)
        self.real = BinaryConvTranspose2d(4, 4, 2, groups=2, weight_binarizer=XNORScale())

    def forward(self, x: Tensor) -> Tensor:
        x = self.space(self.up(self.conv(x)).unsqueeze(2)).squeeze(2)
        return self.line(self.real(x).flatten(2)).amax(2)  # type: ignore[no-any-return]


def test_pack_leaves_others_in_torch_and_says_so(tmp_path: Path) -> None:
    torch.manual_seed(5)
    net, x = Mixed().eval(), torch.randn(2, 3, 4, 4)
    packed = pack(net, x)
    assert packed.report.packed == ("conv", "line")
    assert {name: reason.split()[1] for name, reason in packed.report.left.items()} == {
        "up": "stride",
        "space": "has",
        "real": "input",
    }
    with pytest.raises(GraphError) as caught:
        save(packed, tmp_path / "net.bnn", PackedInfo("net", 3, 4))
    for name, layer in (("up", net.up), ("space", net.space), ("real", net.real)):
        assert f"`{name}` ({type(layer).__name__}" in str(caught.value)
    assert "aten" not in str(caught.value)
    assert not (tmp_path / "net.bnn").exists()
    with torch.no_grad():
        torch.testing.assert_close(packed(x), net(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(exact(net)(x), net(x), rtol=1e-5, atol=1e-5)  # what is written as ONNX


class Up(nn.Module):
    """Averages of a transposed convolution."""

    def __init__(self, **geometry: Any) -> None:
        super().__init__()
        binarizers: dict[str, Any] = {"input_binarizer": RSign(36), "weight_binarizer": XNORScale()}
        self.up = BinaryConvTranspose2d(36, 40, **binarizers | geometry)
        if isinstance(self.up.input_binarizer, RSign):
            nn.init.normal_(self.up.input_binarizer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.up(x)).mean((2, 3))  # type: ignore[no-any-return]


UPS: list[dict[str, Any]] = [
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": (6, 3), "stride": (2, 1), "padding": (3, 0), "output_padding": (1, 0)},
    {"kernel_size": 3, "padding": 1, "dilation": 2, "groups": 2},
    {"kernel_size": 4, "stride": 2, "input_binarizer": AdaBinInput(), "weight_binarizer": AdaBinWeights()},
]


@pytest.mark.parametrize("geometry", UPS, ids=str)
def test_transposed_convolutions_pack_as_convolutions_of_blocks(geometry: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(9)
    net, images = Up(**geometry).eval(), torch.rand(3, 36, 5, 4) - 0.5
    packed = pack(net, images)
    assert packed.report.packed == ("up",)
    assert (packed.report.left, packed.report.unplanned, packed.report.in_torch) == ({}, "", {})
    comparison = Comparison(net, packed)
    comparison.update(images)
    assert comparison.parity.layers == {"up": 0}
    save(packed, tmp_path / "up.bnn", PackedInfo("up", 36, (5, 4)))
    with torch.no_grad():
        torch.testing.assert_close(packed.network.up(images), net.up(images), rtol=1e-5, atol=1e-5)  # type: ignore[operator]
        for found in (packed(images), packed.run_layers(images), load(tmp_path / "up.bnn")(images)):
            torch.testing.assert_close(found, net(images), rtol=1e-5, atol=1e-5)
        repack = Repacker(net, images)
        net.up.weight.neg_()
        torch.testing.assert_close(repack()(images), net(images), rtol=1e-5, atol=1e-5)


class Line(nn.Module):
    """Images of one row become sequences, and these numbers."""

    def __init__(self, **geometry: Any) -> None:
        super().__init__()
        binarizers: dict[str, Any] = {"input_binarizer": RSign(36), "weight_binarizer": XNORScale()}
        self.line = BinaryConv1d(36, 40, **geometry, **binarizers)
        self.norm, self.act = nn.BatchNorm1d(40), nn.PReLU(40)
        nn.init.normal_(self.line.input_binarizer.bias)  # type: ignore[union-attr,arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.line(x.squeeze(2)))).amax(2)  # type: ignore[no-any-return]


LINES: list[dict[str, Any]] = [
    *GEOMETRIES,
    {"kernel_size": 5, "padding": (2, 0), "pad_value": -1.0},
    {"kernel_size": 3, "padding": 3, "stride": 2, "pad_value": 1.0, "bias": False},
]


@pytest.mark.parametrize("geometry", LINES, ids=str)
def test_sequences_pack_as_maps_of_one_row(geometry: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(7)
    net, images = Line(**geometry).eval(), torch.randn(3, 36, 1, 21)
    sequences = images.squeeze(2)
    packed = pack(net, images)
    assert (packed.report.packed, packed.report.left, packed.report.unplanned) == (("line",), {}, "")
    comparison = Comparison(net, packed)
    comparison.update(images)
    assert comparison.parity.layers == {"line": 0}
    save(packed, tmp_path / "line.bnn", PackedInfo("line", 36, (1, 21)))
    with torch.no_grad():
        torch.testing.assert_close(packed.network.line(sequences), net.line(sequences), rtol=1e-6, atol=1e-6)  # type: ignore[operator,union-attr]
        for found in (packed(images), packed.run_layers(images), load(tmp_path / "line.bnn")(images)):
            torch.testing.assert_close(found, net(images), rtol=1e-5, atol=1e-5)
        repack = Repacker(net, images)
        net.line.weight.neg_()
        torch.testing.assert_close(repack()(images), net(images), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"\(N, 36, L\)"):
        packed.network.line(images)  # type: ignore[operator,union-attr]


def test_packed_sequences_have_the_terms_of_centers() -> None:
    torch.manual_seed(8)
    inputs = AdaBinInput()
    nn.init.constant_(inputs.beta, 0.3)
    line = BinaryConv1d(12, 8, 5, padding=3, input_binarizer=inputs, weight_binarizer=AdaBinWeights())
    net, x = nn.Sequential(line).eval(), torch.randn(2, 12, 20)
    packed = pack(net, x)
    assert packed.report.packed == ("0",)
    with torch.no_grad():
        torch.testing.assert_close(packed(x), net(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dims", [1, 3])
def test_they_compile_and_export(dims: int) -> None:
    torch.manual_seed(6)
    conv = KINDS[dims][0](4, 4, 3, padding=1, input_binarizer=SignSTE(), weight_binarizer=XNORScale())
    x = torch.randn(2, 4, *SIZES[dims])
    compiled = torch.compile(conv, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), conv(x))
    program = torch.export.export(conv.eval(), (x,))
    torch.testing.assert_close(program.module()(x), conv(x))
