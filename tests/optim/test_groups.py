from typing import Any

import pytest
import torch
from torch import nn

from bnn_lightning.binarizers import SignSTE, WeightSign
from bnn_lightning.layers import BinaryConv2d, ChannelBlend, RPReLU
from bnn_lightning.models import create_backbone, list_backbones
from bnn_lightning.optim import default_groups


def binary_conv(width: int = 4) -> BinaryConv2d:
    return BinaryConv2d(width, width, 3, input_binarizer=SignSTE(), weight_binarizer=WeightSign())


def by_name(groups: list[dict[str, Any]]) -> dict[str, set[int]]:
    return {group["name"]: {id(p) for p in group["params"]} for group in groups}


def test_groups_hold_what_they_say() -> None:
    net = nn.Sequential(binary_conv(), nn.BatchNorm2d(4), nn.PReLU(), nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4))
    groups = default_groups(net, weight_decay=0.1, latent_weight_decay=0.2, norm_weight_decay=0.3)
    named = dict(net.named_parameters())
    expected = {
        "latent": ["0.weight"],
        "norm": ["0.bias", "1.weight", "1.bias", "2.weight", "3.bias", "4.weight", "4.bias"],
        "rest": ["3.weight"],
    }
    assert by_name(groups) == {name: {id(named[key]) for key in keys} for name, keys in expected.items()}
    assert [group["weight_decay"] for group in groups] == [0.2, 0.3, 0.1]


@pytest.mark.parametrize("name", list_backbones())
def test_every_parameter_once(name: str) -> None:
    with torch.device("meta"):
        net = create_backbone(name, num_classes=10, image_size=64)
    groups = default_groups(net, weight_decay=1e-4)
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(members) == sorted(id(parameter) for parameter in net.parameters())


def test_bnext_groups_have_the_published_sizes() -> None:
    """Specification 2.3, less the parameters that are never used there."""
    with torch.device("meta"):
        net = create_backbone("bnext_tiny", num_classes=1000, image_size=224)
    groups = default_groups(net, weight_decay=1e-3, filter_weight_decay=1e-8)
    sizes: dict[float, int] = {}
    for group in groups:
        sizes[group["weight_decay"]] = sizes.get(group["weight_decay"], 0) + sum(p.numel() for p in group["params"])
    assert sizes == {1e-8: 29_758_368, 1e-3: 1_103_868 - 8_960}
    assert [group["name"] for group in groups] == ["latent", "filter", "norm", "rest"]
    names = {id(p): name for name, p in net.named_parameters()}
    filters = {names[id(p)] for p in groups[1]["params"]}
    assert {name for name in filters if not name.endswith(("_binarizer.bias", "mix.scale"))} == {
        name for name, p in net.named_parameters() if p.ndim == 4 and "conv.conv" not in name
    }


def test_filters_by_themselves() -> None:
    net = nn.Sequential(binary_conv(), nn.Conv2d(4, 4, 1), nn.Linear(4, 4), ChannelBlend(4), RPReLU(4))
    groups = default_groups(
        net, weight_decay=0.1, latent_weight_decay=0.2, norm_weight_decay=0.3, filter_weight_decay=0.4
    )
    named = dict(net.named_parameters())
    expected = {
        "latent": ["0.weight"],
        "filter": ["1.weight", "3.scale", "4.shift_in.bias", "4.shift_out.bias"],
        "norm": ["0.bias", "1.bias", "2.bias", "4.prelu.weight"],
        "rest": ["2.weight"],
    }
    assert by_name(groups) == {name: {id(named[key]) for key in keys} for name, keys in expected.items()}
    assert [group["weight_decay"] for group in groups] == [0.2, 0.4, 0.3, 0.1]


def test_shared_and_frozen_parameters() -> None:
    first, second = binary_conv(), binary_conv()
    second.weight = first.weight
    frozen = nn.Linear(4, 4)
    frozen.weight.requires_grad_(False)
    groups = default_groups(nn.Sequential(first, second, frozen), weight_decay=0.0)
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(members) == len(set(members)) == 4
    assert id(frozen.weight) not in members


def test_decay_acts_on_its_group() -> None:
    net = nn.Sequential(binary_conv(), nn.Conv2d(4, 4, 1))
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    groups = default_groups(net, weight_decay=0.0, latent_weight_decay=0.5, norm_weight_decay=0.0)
    optimizer = torch.optim.SGD(groups, lr=1.0)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = dict(net.named_parameters())
    assert torch.equal(after["0.weight"], 0.5 * before["0.weight"])
    assert all(torch.equal(after[name], before[name]) for name in before if name != "0.weight")


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"group 'norm' must not be negative, got -1\.0"):
        default_groups(nn.Linear(2, 2), weight_decay=0.0, norm_weight_decay=-1.0)
    with pytest.raises(ValueError, match="nothing to train"):
        default_groups(nn.ReLU(), weight_decay=0.0)
