"""Every network against the plain implementation of `conftest.py`: logits and gradients in double precision."""

import pytest
import torch

from bnn_lightning.binarizers import binarizer_factory
from bnn_lightning.layers import annealed
from bnn_lightning.models import create_backbone

# Small images keep the double-precision convolutions quick; the widths are the published ones.
PUBLISHED = {
    "mlp": {"in_channels": 1, "image_size": 28},
    "resnet18": {"image_size": 16},
    "resnet18_double_skip": {"image_size": 40, "num_classes": 7},
    "resnet20": {"image_size": 32},
    "vgg_small": {"image_size": 17},
}
SMALL = {
    "mlp": {"in_channels": 2, "image_size": 5, "width": 24, "dropout": 0.0},
    "resnet18": {"image_size": 9, "width": 4},
    "resnet18_double_skip": {"image_size": 33, "width": 4},
    "resnet20": {"image_size": 11, "width": 4},
    "vgg_small": {"image_size": 16, "width": 4},
}


def build(name, options, **more):
    torch.manual_seed(1)
    channels = options.get("in_channels", 3)
    normalization = {"mean": [0.45, 0.5, 0.4][:channels], "std": [0.25, 0.2, 0.3][:channels]}
    return create_backbone(name, **{"num_classes": 10, **normalization, **options, **more}).double()


def images(options, count):
    size = options["image_size"]
    return torch.rand(count, options.get("in_channels", 3), size, size, dtype=torch.float64)


@torch.no_grad()
def shake(network):
    """Batch norms as after training: nothing at its initial 0 or 1."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(-0.5, 0.5)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_logits_are_those_of_the_plain_implementation(name, reference):
    network = build(name, PUBLISHED[name]).eval()
    shake(network)
    x = images(PUBLISHED[name], 3)
    with torch.no_grad():
        torch.testing.assert_close(network(x), reference(name)(network.state_dict(), x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_training_step_has_the_gradients_of_the_plain_implementation(name, reference):
    # In-place Hardtanh and additions, layer norm in Libra: autograd must not notice.
    weight_binarizer = None if name == "mlp" else binarizer_factory("Libra", eps=1e-30)
    network = build(name, SMALL[name], weight_binarizer=weight_binarizer)
    shake(network)
    for module in annealed(network):
        module.set_progress(0.75)  # t = 1: far from the identity
    x, target = images(SMALL[name], 6), torch.arange(6)
    state = {key: value.detach().clone() for key, value in network.state_dict().items()}
    parameters = {key: state[key].requires_grad_() for key, _ in network.named_parameters()}
    plain = torch.nn.functional.cross_entropy(reference(name, training=True, t=1.0)(state, x), target)
    plain.backward()
    loss = torch.nn.functional.cross_entropy(network(x), target)
    loss.backward()
    torch.testing.assert_close(loss, plain, rtol=1e-9, atol=0)
    for key, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, parameters[key].grad, rtol=1e-6, atol=1e-10, msg=key)
