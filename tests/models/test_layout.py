"""Training keeps memory format and dtype of activations: batch norm is ten times slower backwards where it does not."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bnn_lightning.models import create_backbone

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_networks import BACKBONES, small_options

# VGG-Small and AlexNet flatten their last map for a linear layer, whose gradient has the layout of that.
NAMES = [name for name in BACKBONES if name not in ("binary_alexnet", "mlp", "vgg_small")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_gradients_of_batch_norms_have_layout_and_dtype_of_their_inputs(name: str, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    options = {"num_classes": 10, "image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    network = create_backbone(name, **options, **small_options(name, width=4)).to(memory_format=layout)
    images = torch.rand(4, 3, 32, 32).to(memory_format=layout)
    wrong = []

    def watch(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        def check(grad: torch.Tensor) -> None:
            if not grad.is_contiguous(memory_format=layout) or grad.dtype != inputs[0].dtype:
                wrong.append((module, grad.shape, grad.stride(), grad.dtype))

        output.register_hook(check)
        assert inputs[0].is_contiguous(memory_format=layout)

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(watch)
    with torch.autocast("cpu", torch.bfloat16):
        loss = network(images).logsumexp(1).sum()
    loss.backward()
    assert not wrong
