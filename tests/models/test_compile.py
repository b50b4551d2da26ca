"""Every network compiles into one graph and exports."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bnn_lightning.layers import LearnableBias
from bnn_lightning.models import create_backbone

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_networks import BACKBONES, small_options, without_repeats


def build(name):
    torch.manual_seed(0)
    normalization = {"mean": [0.5] * 3, "std": [0.25] * 3}
    return create_backbone(name, num_classes=10, image_size=32, **small_options(name, width=4), **normalization)


def step(network, images):
    torch.manual_seed(1)  # the MLP's dropout
    loss = network(images).logsumexp(1).sum()
    return loss, torch.autograd.grad(loss, list(network.parameters()))


def compare_compiled(network, backend):
    network, images = network.double(), torch.rand(4, 3, 32, 32, dtype=torch.float64)
    if hasattr(network, "drop"):
        network.drop.p = 0.0  # a compiler draws other random numbers
    for module in network.modules():  # sums of signs may equal their mean: rounding would decide the next sign
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | LearnableBias) and module.bias is not None:
            nn.init.uniform_(module.bias, -0.1, 0.1)
    expected = step(network, images)
    torch._dynamo.reset()
    network.compile(backend=backend, fullgraph=True)
    torch.testing.assert_close(step(network, images), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", BACKBONES)
def test_training_step_is_one_graph(name):
    # Whole networks, and the backward pass, which takes a ResNet half a minute, are among the slow ones.
    compare_compiled(without_repeats(build(name)), "eager")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("name", BACKBONES)
def test_training_step_compiles(name, backend):
    compare_compiled(build(name), backend)


def compare_exported(network):
    network.eval()
    batch = torch.export.Dim("batch", min=1)
    images = torch.rand(3, 3, 32, 32)
    program = torch.export.export(network, (images[:2],), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(images), network(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", BACKBONES)
def test_exports_with_any_batch_size(name):
    compare_exported(without_repeats(build(name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_whole_networks_export_with_any_batch_size(name):
    compare_exported(build(name))
