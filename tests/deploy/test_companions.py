"""What operations leave behind beside their result: signs, sums and averages over 2x2, of two maps in one pass, too."""

import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnn_lightning.deploy.kernels import library as kernels
from bnn_lightning.deploy.kernels.layout import channels_last, new_map, pointer, sums_shape, unblocked
from bnn_lightning.deploy.kernels.squeeze_excite import Combine, Gate
from bnn_lightning.deploy.planner.schedule import Plan, make_plan
from bnn_lightning.deploy.planner.typed_graph import TypedGraph
from bnn_lightning.functional.pack import spread
from bnn_lightning.layers import SqueezeExcite
from tests.deploy.test_convert import conv, settled
from tests.deploy.test_forms import agree, loaded
from tests.deploy.test_real import CASES, CHANNELS, activated, activation, close, some

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
        maps = [channels_last(torch.randn(images, half, *size)) for _ in range(1 + two)]
        gates = [torch.rand(images, half) if gated else None for _ in maps]
        residual = channels_last(torch.randn(images, r.choice([half, channels]), *size))
        layer, slope = Combine(channels, multiply=True, activation=activation(r, channels)), some(r, channels)
        slopes = None if slope is None else spread(slope)
        sums, halves = torch.empty(sums_shape((images, channels, *size))), [-(-side // 2) for side in size]
        averages = new_map(images, channels, halves[0], halves[1])
        job = layer.job(maps[0], gates[0], residual, None, second=(maps[1], gates[1]) if two else None)
        job.sums, job.half, job.half_slope = sums.data_ptr(), averages.data_ptr(), pointer(slopes)
        kernel.run("combine", job)
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


def plan_of(network: nn.Module, images: torch.Tensor, folder: Path) -> Plan:
    packed = loaded(settled(network, images), images, folder)
    agree(packed, images)
    return make_plan(TypedGraph(packed, images))


@needs_kernel
@pytest.mark.parametrize("read_again", [False, True])
@pytest.mark.parametrize(("channels", "size"), [(32, 12), (16, 13), (24, 12)])
def test_two_halves_are_one_pass(channels: int, size: int, read_again: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, channels, size, size)
    plan = plan_of(Doubled(channels, read_again=read_again), images, tmp_path)
    nodes = plan.graph.nodes
    halves = next(action for action in plan.actions if nodes[action.number - 1].operation == "cat")
    pooled = [action for action in plan.actions if nodes[action.number - 1].operation == "avg_pool2d"]
    if channels % 16 == 0:
        assert halves.emitted is not None
        assert halves.sums is not None
        assert halves.half is not None
        assert halves.floats == read_again
        assert not pooled
    else:  # a block of channels would belong to both halves
        assert halves.half is None
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
    gate = Gate(torch.randn(96, 700) / 30, torch.randn(96), torch.randn(700, 96), torch.randn(700), mix=torch.rand(700))
    own, other = torch.randn(2, images, 700)
    hidden = F.linear(
        torch.lerp(own, other, gate.mix[:700]), unblocked(gate.squeeze, 96), gate.squeeze_bias[:96]
    ).relu()
    close(gate(own, other), F.linear(hidden, unblocked(gate.excite, 700), gate.excite_bias[:700]).sigmoid(), images)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(gate(own, other))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
