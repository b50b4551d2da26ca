"""Directions have the norms of the filters, and a network is put back to the bit."""

import math

import pytest
import torch
from torch import nn

from bnn_lightning.analysis import perturbed_parameters, random_direction, shifted
from bnn_lightning.layers.module_utils import latent_weights
from bnn_lightning.models import create_backbone
from tests.small_networks import BACKBONES, small_options


def network(name: str = "resnet20", **options: object) -> nn.Module:
    torch.manual_seed(0)
    return create_backbone(name, num_classes=5, image_size=32, **small_options(name, width=8, **options)).eval()


@pytest.mark.parametrize("name", BACKBONES)
def test_every_filter_has_the_norm_of_the_networks_own(name: str) -> None:
    model = network(name)
    direction = random_direction(model, seed=1)
    layers = {id(m.weight): n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    parameters = dict(model.named_parameters())
    assert {id(parameters[n]) for n in direction} == set(layers)
    for key, tensor in direction.items():
        for filter_, own in zip(tensor, parameters[key], strict=True):
            norm = math.sqrt(sum(x * x for x in filter_.double().flatten().tolist()))
            wanted = math.sqrt(sum(x * x for x in own.detach().double().flatten().tolist()))
            assert norm == pytest.approx(wanted, rel=1e-5)


def test_layer_and_no_normalization() -> None:
    model = network()
    by_layer = random_direction(model, seed=1, normalize="layer")
    plain = random_direction(model, seed=1, normalize="none")
    generator = torch.Generator().manual_seed(1)
    for name, tensor in plain.items():
        parameter = model.get_parameter(name)
        assert torch.equal(tensor, torch.randn(parameter.shape, generator=generator))
        torch.testing.assert_close(by_layer[name].norm(), parameter.detach().norm())
        torch.testing.assert_close(by_layer[name] / by_layer[name].norm(), tensor / tensor.norm())


def test_what_is_perturbed() -> None:
    model = network("reactnet18")
    every = dict(model.named_parameters())
    assert perturbed_parameters(model, "all").keys() == every.keys()
    assert perturbed_parameters(model, "binary").keys() == latent_weights(model).keys()
    moved = random_direction(model, seed=1).keys()
    # RSign's and RPReLU's per-channel tensors, batch norms and biases are no filters, whatever their shape.
    assert all(name.endswith("weight") and every[name].dim() in (2, 4) for name in moved)
    assert "conv1.weight" in moved
    assert "bn1.weight" not in moved
    whole = random_direction(model, seed=1, perturb="all")
    for name, parameter in every.items():
        torch.testing.assert_close(whole[name].norm(), parameter.detach().norm())


def test_seeds_and_refusals() -> None:
    model = network()
    one, same, other = (random_direction(model, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match="`normalize` must be one of"):
        random_direction(model, seed=1, normalize="filters")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`perturb` must be one of"):
        random_direction(model, seed=1, perturb="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no parameters"):
        random_direction(network(binary=False), seed=1, perturb="binary")


def test_network_moves_and_is_put_back_to_the_bit() -> None:
    model = network()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    directions = [random_direction(model, seed=seed) for seed in (1, 2)]
    with shifted(model, directions, (0.5, -0.25)):
        for name in directions[0]:
            wanted = state[name] + 0.5 * directions[0][name] - 0.25 * directions[1][name]
            torch.testing.assert_close(model.get_parameter(name).detach(), wanted)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(KeyError), shifted(model, directions, (1.0, 1.0)):
        raise KeyError
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
