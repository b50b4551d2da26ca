"""A packed network follows its weights: after a change it is what packing anew gives."""

import pytest
import torch
from torch import nn

from bnn_lightning.binarizers import SignSTE, XNORScale
from bnn_lightning.deploy import Repacker, pack
from bnn_lightning.layers import BinaryConv2d, LearnableBias
from bnn_lightning.layers.module_utils import annealed, binary_layers
from bnn_lightning.models import create_backbone
from tests.small_networks import BACKBONES, small_options


def moved(network: nn.Module, *, seed: int) -> None:
    """Move the weights of convolutions and linear layers, and nothing else."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.add_(module.weight.std() * torch.randn_like(module.weight))


OFTEN = ("bnext_tiny", "mlp", "reactnet18", "resnet20", "vgg_small")
NAMES = [n if n in OFTEN else pytest.param(n, marks=pytest.mark.slow) for n in BACKBONES]


@pytest.mark.parametrize("name", NAMES)
def test_follows_the_weights(name: str) -> None:
    torch.manual_seed(0)
    network = create_backbone(name, num_classes=5, image_size=32, **small_options(name, width=8)).eval()
    for module in annealed(network):
        module.set_progress(1.0)
    repack = Repacker(network)
    images = torch.rand(2, network.in_channels, 32, 32)
    before = repack()(images)
    moved(network, seed=1)
    anew = pack(network)
    report = repack.packed.report
    assert (anew.report.packed, anew.report.folded, anew.report.left) == (report.packed, report.folded, report.left)
    after = repack()(images)
    torch.testing.assert_close(after, anew(images), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(after, before)


def test_folds_as_pack_does() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8, affine=False)
    conv = BinaryConv2d(8, 8, 3, padding=1, input_binarizer=SignSTE(), weight_binarizer=XNORScale())
    network = nn.Sequential(conv, norm, LearnableBias(8)).eval()
    nn.init.normal_(network[2].bias)
    images = torch.randn(2, 8, 5, 5)
    repack = Repacker(network, images)
    moved(network, seed=1)
    assert torch.equal(repack()(images), pack(network, images)(images))


def test_model_and_its_layers_stay_as_they_are() -> None:
    network = create_backbone("resnet20", num_classes=5, image_size=32, width=4).eval()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    kinds = [type(layer.weight_binarizer) for layer in binary_layers(network).values()]
    Repacker(network)()
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert kinds == [type(layer.weight_binarizer) for layer in binary_layers(network).values()]


def test_refuses_weights_that_are_not_numbers() -> None:
    network = create_backbone("resnet20", num_classes=5, image_size=32, width=4).eval()
    repack = Repacker(network)
    with torch.no_grad():
        next(iter(binary_layers(network).values())).weight[0] = float("nan")
    with pytest.raises(ValueError, match="must be -1 or \\+1"):
        repack()
