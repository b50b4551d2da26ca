"""A packed network that is another one is found out."""

import pytest
import torch
from torch import nn

from bnn_lightning.deploy import Comparison, PackedConv2d, pack
from bnn_lightning.models import create_backbone


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_backbone("resnet20", num_classes=10, image_size=32, width=16).eval()


def test_a_packed_network_agrees(network: torch.nn.Module) -> None:
    comparison = Comparison(network, pack(network))
    for _ in range(2):
        comparison.update(torch.rand(3, 3, 32, 32))
    assert comparison.parity.images == 6
    assert comparison.parity.faults == []
    assert list(comparison.parity.layers.values()) == [0] * 18
    assert not network.layer1[0].conv1._forward_pre_hooks


def test_another_network_is_a_fault(network: torch.nn.Module) -> None:
    packed = pack(network)
    layer = next(module for module in packed.modules() if isinstance(module, PackedConv2d))
    layer.bias.add_(1.0)
    comparison = Comparison(network, packed, margin=0.0)
    comparison.update(torch.rand(20, 3, 32, 32))
    assert comparison.parity.others
    assert all("with a margin of" in fault for fault in comparison.parity.faults)


def test_sums_that_differ_are_a_fault(network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(network)
    forward = PackedConv2d.forward
    monkeypatch.setattr(PackedConv2d, "forward", lambda self, x, residual=None: forward(self, x, residual) + 2)
    comparison = Comparison(network, packed)
    comparison.update(torch.rand(1, 3, 32, 32))
    assert any("sums of `layer1.0.conv1` differ" in fault for fault in comparison.parity.faults)


def test_no_image_and_no_number_are_faults(network: torch.nn.Module) -> None:
    assert Comparison(network, pack(network)).parity.faults == ["There was no image to compare."]
    comparison = Comparison(network, lambda images: network(images) * float("nan"))
    comparison.update(torch.rand(1, 3, 32, 32))
    assert "A logit is not a finite number." in comparison.parity.faults


class ByCompany(nn.Module):
    """Rounds otherwise for an image alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = x.flatten(1)[:, :3]
        return logits.flip(1) if len(x) == 1 else logits


def test_an_image_may_have_what_the_network_gives_for_it_alone() -> None:
    images = torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]]).view(2, 3, 1, 1)

    def flipped(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).flip(1)

    strict, lenient = (Comparison(ByCompany(), flipped, layers=False, rounds=rounds) for rounds in (False, True))
    for comparison in (strict, lenient):
        comparison.update(images, torch.tensor([2, 1]))
    assert "Image 0: class 0 simulated, 2 packed" in strict.parity.faults[0]
    assert (lenient.parity.faults, lenient.parity.rounded, lenient.parity.largest_difference) == ([], 1, 0.0)
    assert (strict.parity.far, lenient.parity.far) == (1, 0)
    assert "1 of them have what the trained network gives for the image alone or in float64" in str(lenient.parity)
    assert lenient.parity.correct == [2, 2]


def test_an_image_may_have_what_the_network_gives_in_float64() -> None:
    class Canceling(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.flatten(1) + 1e8) - 1e8  # in float32 what is below 4 is lost

    images = torch.tensor([[1.0, 2.0], [0.0, 16.0]]).view(2, 2, 1, 1)
    strict, lenient = (
        Comparison(Canceling(), lambda x: x.flatten(1), layers=False, rounds=rounds) for rounds in (False, True)
    )
    for comparison in (strict, lenient):
        comparison.update(images)
    assert [other.index for other in strict.parity.others] == [0]
    assert "1 of them have a logit that differs by more than 0.0001" in str(strict.parity)
    assert (lenient.parity.others, lenient.parity.rounded, lenient.parity.far) == ([], 1, 0)
