"""Activation checkpointing changes memory, and nothing else."""

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from bnn_lightning.distill import Batch, HardLabels, Outputs, SelfKD
from bnn_lightning.layers.recompute import blocks_of, check_recomputable, recomputed
from bnn_lightning.models import create_backbone, list_backbones


def backbone(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    size = 64 if "double" in name or name == "binary_alexnet" else 32
    return create_backbone(name, num_classes=10, image_size=size, **options)


def with_blocks() -> list[str]:
    with torch.device("meta"):
        networks = {name: backbone(name) for name in list_backbones()}
    # The larger ones of a family are built from the same blocks.
    small = [name for name, net in networks.items() if sum(p.numel() for p in net.parameters()) < 15e6]
    return [name for name in small if blocks_of(networks[name])]


def step(network: nn.Module, distiller: Any, *, again: bool) -> torch.Tensor:
    torch.manual_seed(1)
    size = network.image_size
    batch = Batch(torch.rand(2, 3, size, size), torch.tensor([3, 4]))
    with recomputed(network) if again else nullcontext(), distiller.watch(network) as taps:
        logits = network(batch.images)
    loss = distiller.total(distiller(batch, Outputs(logits, taps.features, taps)))
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("name", with_blocks())
def test_losses_gradients_and_statistics_are_the_same(name: str) -> None:
    network = backbone(name)
    twin = copy.deepcopy(network)
    assert torch.equal(step(network, HardLabels(), again=False), step(twin, HardLabels(), again=True))
    for (key, one), two in zip(network.named_parameters(), twin.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None), key
        assert one.grad is None or torch.equal(one.grad, two.grad), key
    assert all(torch.equal(one, two) for one, two in zip(network.buffers(), twin.buffers(), strict=True))
    assert not any("forward" in vars(module) for module in twin.modules())


def test_with_the_self_teacher() -> None:
    network = backbone("resnet20", width=8)
    twin = copy.deepcopy(network)
    assert torch.equal(step(network, SelfKD(10), again=False), step(twin, SelfKD(10), again=True))
    for one, two in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)
    assert all(torch.equal(one, two) for one, two in zip(network.buffers(), twin.buffers(), strict=True))


def test_backward_more_than_once() -> None:
    network = backbone("resnet20", width=8)
    with recomputed(network):
        loss = network(torch.rand(2, 3, 32, 32)).square().sum()
    buffers = [buffer.clone() for buffer in network.buffers()]
    first, second = (torch.autograd.grad(loss, network.layer1[0].conv1.weight, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(one, two) for one, two in zip(network.buffers(), buffers, strict=True))


def test_less_is_kept() -> None:
    def kept(again: bool) -> int:
        network, sizes = backbone("resnet20", width=8), []
        pack = torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t)
        with pack, recomputed(network) if again else nullcontext():
            network(torch.rand(2, 3, 32, 32))
        return sum(sizes)

    assert kept(True) < 0.5 * kept(False)


def test_networks_without_blocks_and_compiled_ones_are_refused() -> None:
    with pytest.raises(ValueError, match="MLP has no blocks that hold binary layers"):
        check_recomputable(backbone("mlp"), compile=False)
    with pytest.raises(ValueError, match="exclude each other"):
        check_recomputable(backbone("resnet20"), compile=True)
