"""Secondary outputs of operations: signs, sums and averages over 2x2, of two maps in one pass, too."""

import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnn_lightning.deploy.kernels import library as kernels
from bnn_lightning.deploy.kernels import squeeze_excite
from bnn_lightning.deploy.kernels.binary_conv import summing
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.elementwise import FusedElementwise, halving
from bnn_lightning.deploy.kernels.layout import Map
from bnn_lightning.deploy.kernels.pool import sums_size
from bnn_lightning.deploy.planner.plan import KernelCall
from bnn_lightning.layers import SqueezeExcite
from tests.deploy import called
from tests.deploy.test_convert import conv, settled
from tests.deploy.test_forms import agree, loaded
from tests.deploy.test_real import CASES, CHANNELS, activated, activation, array, close, some

KERNELS = kernels.supported_kernels()
needs_kernel = pytest.mark.skipif(not KERNELS, reason="needs a compiled kernel")


@pytest.mark.parametrize("name", KERNELS)
def test_a_second_pass_over_two_maps_leaves_sums_and_averages(name: str) -> None:
    kernel = kernels.Kernel(name)
    for number in range(2 * CASES):
        r = random.Random(number)
        torch.manual_seed(number)
        two, gated = r.random() < 0.5, r.random() < 0.7
        half = r.choice([16, 32]) if two else r.choice(CHANNELS)
        channels, images, size = half * (1 + two), r.randint(1, 3), (r.randint(1, 19), r.randint(1, 19))
        maps = [called.last(torch.randn(images, half, *size)) for _ in range(1 + two)]
        gates = [torch.rand(images, half) if gated else None for _ in maps]
        residual = called.last(torch.randn(images, r.choice([half, channels]), *size))
        layer, slope = FusedElementwise(activation(r, channels), multiply=True), some(r, channels)
        halves = [-(-side // 2) for side in size]
        sums = torch.empty(
            images, sums_size((channels, *size)) // (4 * 16 * -(-channels // 16)), 16 * -(-channels // 16)
        )
        averages, constants = called.new(images, (channels, *halves)), ConstantSection()
        places = [Map(called.place(x), (half, *size)) for x in maps]
        given = [None if gate is None else called.place(gate) for gate in gates]
        call = layer.call(
            constants,
            places[0],
            None,
            gate=given[0],
            residual=Map(called.place(residual), tuple(residual.shape[1:])),
            second=(places[1], given[1]) if two else None,
        )
        call = summing(call, called.place(sums))
        call = halving(call, constants, array(slope), Map(called.place(averages), (channels, *halves)))
        called.run(call, constants, images, kernel)
        product = [x if gate is None else x * gate[:, :, None, None] for x, gate in zip(maps, gates, strict=True)]
        beside = residual.repeat(1, channels // residual.shape[1], 1, 1)
        expected, case = activated(torch.cat(product, 1) * beside + beside, layer.activation), (number, channels, size)
        torch.testing.assert_close(sums.sum(1)[:, :channels], expected.sum((2, 3)), rtol=1e-4, atol=1e-3)
        close(averages, F.avg_pool2d(expected if slope is None else F.prelu(expected, slope), 2, ceil_mode=True), case)


class Doubled(nn.Module):
    """Two gated convolutions side by side, then one with a stride, whose shortcut is averages over 2x2."""

    def __init__(self, channels: int, *, read_again: bool) -> None:
        super().__init__()
        self.read_again = read_again
        self.halves = nn.ModuleList(conv(channels, channels, 1) for _ in range(2))
        self.gates = nn.ModuleList(SqueezeExcite(channels) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))
        self.strided, self.act, self.pool = (
            conv(2 * channels, 2 * channels, 3),
            nn.PReLU(2 * channels),
            nn.AvgPool2d(2, ceil_mode=True),
        )
        self.out = nn.Linear(2 * channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = []
        for layer, gate, norm in zip(self.halves, self.gates, self.norms, strict=True):
            v = layer(x)
            parts.append(norm(v * gate(v)) + x)
        y = torch.cat(parts, 1)
        z = self.strided(y)[:, :, ::2, ::2] + self.pool(self.act(y))
        z = z + y[:, :, ::2, ::2] if self.read_again else z
        return self.out(z.mean((2, 3)) + y.mean((2, 3)))


def calls_of(network: nn.Module, images: torch.Tensor, folder: Path, operation: str) -> list[KernelCall]:
    """Return the native calls of an operation in a network's plan."""
    packed = loaded(settled(network, images), images, folder)
    agree(packed, images)
    nodes, calls = packed.graph.nodes, packed.plan().calls
    return [c for c in calls if isinstance(c, KernelCall) and c.node and nodes[c.node - 1].operation == operation]


@needs_kernel
@pytest.mark.parametrize("read_again", [False, True])
@pytest.mark.parametrize(("channels", "size"), [(32, 12), (16, 13), (24, 12)])
def test_two_halves_are_one_pass(channels: int, size: int, read_again: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, channels, size, size)
    (folder := tmp_path / "net").mkdir()
    network = Doubled(channels, read_again=read_again)
    halves = calls_of(network, images, folder, "cat")
    pooled = calls_of(network, images, folder, "avg_pool2d")
    if channels % 16 == 0:
        assert len(halves) == 1
        fields = halves[0].fields
        assert {"after.bits", "sums", "half", "half_slope", "second"} <= set(fields)
        assert ("after.out" in fields) == read_again
        assert not pooled
    else:  # a block of channels would belong to both halves
        assert not any("half" in call.fields for call in halves)
        assert len(pooled) == 1


@needs_kernel
def test_any_number_of_threads_gives_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 32, 20, 20)
    packed = loaded(settled(Doubled(32, read_again=False), images), images, tmp_path)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(packed(images))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@needs_kernel
@pytest.mark.parametrize("images", [1, 3])
def test_a_gate_is_the_same_for_any_number_of_threads(images: int) -> None:
    torch.manual_seed(0)
    squeeze, excite = torch.randn(96, 700) / 30, torch.randn(700, 96)
    biases, mix = (torch.randn(96), torch.randn(700)), torch.rand(700)
    products = [squeeze_excite.Dense(w.numpy(), b.numpy()) for w, b in zip((squeeze, excite), biases, strict=True)]
    gate = squeeze_excite.ChannelGate(*products, mix.numpy())
    own, other = torch.randn(2, images, 700)
    hidden = F.linear(torch.lerp(own, other, mix), squeeze, biases[0]).relu()
    close(called.gate(gate, own, other), F.linear(hidden, excite, biases[1]).sigmoid(), images)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(called.gate(gate, own, other))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
