"""Bop against the loop of its paper, and Adam against torch's."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnn_lightning.binarizers import SignSTE, WeightSign
from bnn_lightning.layers import BinaryLinear
from bnn_lightning.optim import Bop, default_groups, warmup_cosine


def network() -> nn.Sequential:
    torch.manual_seed(0)
    binary = BinaryLinear(6, 8, input_binarizer=SignSTE(), weight_binarizer=WeightSign())
    return nn.Sequential(nn.Linear(5, 6), binary, nn.BatchNorm1d(8), nn.Linear(8, 3))


def bop(net: nn.Module, **options: Any) -> Bop:
    return Bop(default_groups(net, weight_decay=0.0), **options)


def gradients(net: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in net.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def flip(weight: Tensor, average: Tensor, gradient: Tensor, gamma: float, tau: float) -> None:
    """Algorithm 1 of the paper, a weight at a time."""
    for i, w in enumerate(weight):
        average[i] = (1 - gamma) * average[i] + gamma * gradient[i]
        if abs(average[i]) > tau and (average[i] > 0) == (w > 0):
            weight[i] = -w


def test_flips_as_the_paper_and_trains_the_rest_as_adam() -> None:
    net, twin = network(), network()
    signs = torch.where(net[1].weight.detach() >= 0, 1.0, -1.0)
    optimizer = bop(net, lr=0.01, betas=(0.8, 0.9), adaptivity=0.2, threshold=0.1)
    assert torch.equal(net[1].weight, signs)
    adam = torch.optim.Adam([p for p in twin.parameters() if p is not twin[1].weight], lr=0.01, betas=(0.8, 0.9))
    weight, average = signs.double().flatten(), torch.zeros(48, dtype=torch.float64)
    flipped = 0
    for step in range(12):
        gradients(net, step)
        gradients(twin, step)
        before = weight.clone()
        flip(weight, average, net[1].weight.grad.double().flatten(), 0.2, 0.1)
        flipped += int((weight != before).sum())
        optimizer.step()
        adam.step()
        assert torch.equal(net[1].weight.flatten().double(), weight)
    assert 40 < flipped < 12 * 48 / 2
    for (name, parameter), other in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert name == "1.weight" or torch.equal(parameter, other)


def test_a_schedule_lowers_both() -> None:
    optimizer = bop(network(), lr=0.02, adaptivity=0.1)
    schedule = warmup_cosine(optimizer, steps_per_epoch=4, epochs=2)["scheduler"]
    before = [group["lr"] for group in optimizer.param_groups]
    optimizer.step()
    assert before == [0.1, 0.02, 0.02]
    schedule.step()
    ratios = {round(g["lr"] / start, 9) for g, start in zip(optimizer.param_groups, before, strict=True)}
    assert len(ratios) == 1
    assert ratios.pop() < 1


def test_a_restored_optimizer_goes_on_to_the_bit() -> None:
    net = network()
    optimizer = bop(net, adaptivity=0.2, threshold=0.1)
    for step in range(4):
        gradients(net, step)
        optimizer.step()
    other = network()
    other.load_state_dict(net.state_dict())
    restored = bop(other, adaptivity=0.2, threshold=0.1)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(4, 8):
        for n, o in ((net, optimizer), (other, restored)):
            gradients(n, step)
            o.step()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_a_closure_and_missing_gradients() -> None:
    net = network()
    optimizer = bop(net, adaptivity=1.0, threshold=0.0)
    images = torch.rand(4, 5)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = net(images).square().mean()
        loss.backward()
        return loss

    expected = closure().item()
    assert optimizer.step(closure).item() == expected
    optimizer.zero_grad()
    before = [p.detach().clone() for p in net.parameters()]
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adaptivity": 0.0}, r"`adaptivity` must be in \(0, 1\], got 0.0"),
        ({"threshold": -1.0}, "`threshold` must not be negative, got -1.0"),
    ],
)
def test_values_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bop(network(), **options)


def test_groups_that_bop_cannot_train() -> None:
    with pytest.raises(ValueError, match='group called "latent", and there is none'):
        Bop(default_groups(nn.Linear(2, 2), weight_decay=0.0))
    with pytest.raises(ValueError, match="must be parameter groups"):
        Bop(nn.Linear(2, 2).parameters())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"cannot decay, got weight_decay=0\.1"):
        Bop(default_groups(network(), weight_decay=0.1))


@pytest.mark.parametrize(("gradient", "flips"), [(0.5, False), (0.50001, True), (-0.75, False)])
def test_a_weight_flips_only_above_the_threshold(gradient: float, flips: bool) -> None:
    """Algorithm 1 has |m| > tau: an average of exactly tau flips nothing."""
    weight = torch.nn.Parameter(torch.tensor([0.3]))
    optimizer = Bop([{"params": [weight], "name": "latent"}], adaptivity=1.0, threshold=0.5)
    weight.grad = torch.tensor([gradient])
    optimizer.step()
    assert weight.item() == (-1.0 if flips else 1.0)
