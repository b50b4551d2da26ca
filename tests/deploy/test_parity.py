"""A packed network that is another one is found out."""

import pytest
import torch

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
