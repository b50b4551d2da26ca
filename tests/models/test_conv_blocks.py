"""Each convolution module, and the networks made of them, against plain implementations in double precision."""

import pytest
import torch
from torch import nn

from bnn_lightning.layers import BinaryConv2d, binary_layers
from bnn_lightning.models import BiRealUnit, ReActUnit, RealToBinaryUnit, XNORUnit, create_backbone
from bnn_lightning.models.blocks import RepeatShortcut, layer_factory, pool_shortcut, repeat_shortcut
from tests.models.plain_units import Plain

UNITS = {"xnor": XNORUnit, "bireal": BiRealUnit, "react": ReActUnit, "real2binary": RealToBinaryUnit}
SHAPES = [(8, 8, 1), (8, 16, 2)]


@torch.no_grad()
def shaken(network):
    """Nothing at its initial value; some weights beyond the clip of their gradients."""
    generator = torch.Generator().manual_seed(2)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.is_floating_point() and "normalize" not in name:
            tensor.copy_(0.6 * torch.randn(tensor.shape, generator=generator))
    return network.double()


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize(("channels", "out", "stride"), SHAPES)
def test_a_unit_alone_is_the_formula_with_its_gradients(name, channels, out, stride):
    unit = shaken(UNITS[name](channels, out, stride))
    x = torch.randn(3, channels, 6, 6, dtype=torch.float64, requires_grad=True)
    state = {key: value.detach().clone() for key, value in unit.state_dict().items()}
    parameters = {key: state[key].requires_grad_() for key, _ in unit.named_parameters()}
    expected = getattr(Plain(state, training=True), name)("", x, stride)
    y = unit(x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-9)
    upstream = torch.randn_like(y)
    got = torch.autograd.grad(y, (x, *unit.parameters()), upstream)
    wanted = torch.autograd.grad(expected, (x, *parameters.values()), upstream)
    for key, one, two in zip(("x", *parameters), got, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-9, msg=key)


NETWORKS = {
    "xnornet18": ("xnor_block", (2, 2, 2, 2), True),
    "birealnet18": ("bireal", (4, 4, 4, 4), False),
    "birealnet34": ("bireal", (6, 8, 12, 6), False),
    "reactnet18": ("react", (4, 4, 4, 4), False),
    "reactnet34": ("react", (6, 8, 12, 6), False),
    "real2binary18": ("real2binary", (4, 4, 4, 4), True),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_the_plain_network(name):
    unit, depths, relu = NETWORKS[name]
    network = shaken(create_backbone(name, num_classes=5, image_size=64, width=8)).eval()
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = Plain(network.state_dict()).resnet(unit, depths, images, relu=relu)
        torch.testing.assert_close(network(images), expected, rtol=1e-9, atol=1e-9)
    assert expected.std() > 0


def test_a_widening_unit_is_two_units_whose_outputs_are_concatenated():
    unit = shaken(ReActUnit(8, 16, kernel_size=1, shortcut=repeat_shortcut)).eval()
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    state = unit.state_dict()
    halves = []
    for half in (slice(0, 8), slice(8, 16)):
        own = {key: v if "input_binarizer" in key or v.dim() == 0 else v[half] for key, v in state.items()}
        halves.append(Plain(own).react("", x))
    with torch.no_grad():
        torch.testing.assert_close(unit(x), torch.cat(halves, 1), rtol=0, atol=1e-9)


def test_shortcuts_halve_odd_sides_like_a_convolution():
    x = torch.arange(9.0).view(1, 1, 3, 3)
    assert RepeatShortcut(2, 2)(x)[0, 1].tolist() == [[2.0, 3.5], [6.5, 8.0]]
    assert pool_shortcut(4, 8, 2)(torch.rand(1, 4, 7, 5)).shape == (1, 8, 4, 3)
    assert isinstance(repeat_shortcut(4, 4, 1), nn.Identity)
    assert isinstance(pool_shortcut(4, 4, 1), nn.Identity)
    with pytest.raises(ValueError, match="must multiply channels, got 4 to 6"):
        repeat_shortcut(4, 6, 1)
    with pytest.raises(ValueError, match="`stride` must be 1 or 2, got 3"):
        repeat_shortcut(4, 4, 3)


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_takes_other_layers(name):
    unit = UNITS[name](8, 8, layers=layer_factory(False, None, None))
    assert not binary_layers(unit)
    assert type(unit.conv) is BinaryConv2d
    assert unit.conv.input_binarizer is None


@pytest.mark.parametrize("name", ["birealnet18", "reactnet_a", "real2binary18", "xnornet18"])
def test_the_stem_for_cifar_keeps_the_size(name):
    least = 9 if name == "reactnet_a" else 5
    network = create_backbone(name, num_classes=3, image_size=least, width=8, stem="cifar")
    assert network(torch.rand(2, 3, least, least)).shape == (2, 3)
    with pytest.raises(ValueError, match=f"`image_size` must be at least {least} for `{name}`"):
        create_backbone(name, num_classes=3, image_size=least - 1, stem="cifar")
    with pytest.raises(ValueError, match="`stem` must be one of"):
        create_backbone(name, num_classes=3, image_size=32, stem="mnist")


def test_initial_weights_are_the_papers():
    torch.manual_seed(0)
    react = create_backbone("reactnet18", num_classes=3, image_size=32)
    weights = torch.cat([layer.weight.flatten() for layer in binary_layers(react).values()])
    assert weights.min() >= 0
    assert weights.max() <= 1e-3
    assert weights.mean().item() == pytest.approx(5e-4, rel=0.01)
    gated = create_backbone("real2binary18", num_classes=3, image_size=32)
    conv, gate = gated.layer3[1].conv.weight, gated.layer4[1].gate.squeeze.weight
    assert conv.std().item() == pytest.approx((2 / (2 * 9 * 256)) ** 0.5, rel=0.03)
    assert gate.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.03)


def test_the_first_step_loads_into_the_second():
    for name in ("reactnet_a", "real2binary18"):
        options = {"num_classes": 3, "image_size": 32, "width": 8}
        first = create_backbone(name, binary="activations", **options)
        second = create_backbone(name, **options)
        second.load_state_dict(first.state_dict())
    twin = create_backbone("real2binary18", binary=False, **options)
    first.load_state_dict(twin.state_dict())
