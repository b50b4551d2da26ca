"""Watching a forward."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bnn_lightning.binarizers import SignSTE, WeightSign
from bnn_lightning.distill import watch
from bnn_lightning.layers import BinaryConv2d, BinaryLinear, binary_layers
from bnn_lightning.models import create_backbone, list_backbones

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_networks import small_options


def small(name: str) -> nn.Module:
    options = small_options(name, width=16 if name == "mlp" else 4)
    return create_backbone(name, num_classes=3, in_channels=2, image_size=32, **options)


def signs() -> dict[str, nn.Module]:
    return {"input_binarizer": SignSTE(), "weight_binarizer": WeightSign()}


@pytest.mark.parametrize("name", list_backbones())
def test_what_is_recorded(name: str) -> None:
    backbone, x = small(name), torch.rand(2, 2, 32, 32)
    products: list[Tensor] = []
    for layer in binary_layers(backbone).values():
        layer.register_forward_hook(
            lambda m, args, y: products.append(y if m.bias is None else y - m.per_channel(m.bias))
        )
    with watch(backbone, penultimate=True, stream=True) as taps:
        logits = backbone(x)
    assert taps.backbone is backbone
    assert taps.call == ((x,), {})
    assert [r.module for r in taps.products] == list(binary_layers(backbone).values())
    for recorded, y in zip(taps.products, products, strict=True):
        assert not recorded.value.requires_grad
        torch.testing.assert_close(recorded.value, y.detach(), rtol=0, atol=1e-5)
    assert [r.module for r in taps.tapped] == [backbone.get_submodule(n) for n in backbone.feature_taps()]
    assert all(r.value.requires_grad and r.intact for r in taps.tapped)
    assert taps.features is not None
    assert taps.features.requires_grad
    assert taps.features.shape == (2, backbone.num_features)
    last = backbone.norm8 if name == "binary_alexnet" else nn.Identity()  # there batch norm gives the logits
    assert torch.equal(last(backbone.get_submodule(backbone.classifier_name)(taps.features)), logits)


def test_only_what_was_asked_for(home_made: nn.Module) -> None:
    x = torch.rand(2, 2, 8, 8)
    with watch(home_made, penultimate=True) as taps:
        home_made(x)
    assert taps.features is not None
    assert taps.backbone is None
    assert not taps.products
    with watch(home_made, stream=True) as taps:
        home_made(x)
    assert taps.features is None
    assert len(taps.products) == 5
    assert [r.module for r in taps.stem] == [home_made.stem, home_made.act]
    with watch(home_made) as taps:
        home_made(x)
    assert taps.features is None
    assert not taps.products


def test_nothing_is_recorded_outside(home_made: nn.Module) -> None:
    x = torch.rand(2, 2, 8, 8)
    stranger = nn.Linear(2, 2)
    with watch(home_made, penultimate=True, stream=True) as taps:
        stranger(torch.rand(1, 2))
        home_made(x)
        stranger(torch.rand(1, 2))
    first = taps.features
    home_made(x)
    assert taps.features is first
    assert len(taps.products) == 5
    assert all(r.module is not stranger for r in taps.stem)


@pytest.mark.parametrize("fail", [False, True])
def test_the_network_is_restored(home_made: nn.Module, fail: bool) -> None:
    attributes = {path: dict(vars(m)) for path, m in home_made.named_modules()}
    with pytest.raises(RuntimeError) if fail else torch.enable_grad():  # noqa: SIM117
        with watch(home_made, penultimate=True, stream=True):
            home_made(torch.rand(2, 2, 8, 8))
            if fail:
                raise RuntimeError("out of memory")
    for path, module in home_made.named_modules():
        assert vars(module).keys() == attributes[path].keys(), path
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_a_second_call_is_an_error(home_made: nn.Module) -> None:
    x = torch.rand(2, 2, 8, 8)
    with watch(home_made, stream=True):
        home_made(x)
        with pytest.raises(RuntimeError, match="called twice within one `watch`"):
            home_made(x)


@pytest.mark.parametrize("names", [None, list])
def test_of_a_network_that_declares_nothing_layers_and_last_linear_are_recorded(names: type | None) -> None:
    plain = nn.Sequential(nn.Conv2d(2, 4, 3), BinaryConv2d(4, 4, 3, **signs()), nn.Flatten(), nn.Linear(64, 5))
    plain.append(BinaryLinear(5, 6, **signs())).append(nn.Hardtanh()).append(nn.Linear(6, 3))
    if names is not None:
        plain.feature_taps = names
    x = torch.rand(2, 2, 8, 8)
    with watch(plain, penultimate=True, stream=True) as taps:
        logits = plain(x)
    assert [record.module for record in taps.tapped] == [plain[1], plain[4]]
    assert all(record.value.requires_grad for record in taps.tapped)
    torch.testing.assert_close(plain[6](taps.features), logits)


def test_a_backbone_that_cannot_be_watched_is_refused() -> None:
    with pytest.raises(ValueError, match="has no binary layer"), watch(nn.Linear(2, 2), stream=True):
        pass
    unknown = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    with pytest.raises(ValueError, match="`classifier_name`"), watch(unknown, penultimate=True):
        unknown(torch.rand(1, 2))
    twin = create_backbone("resnet20", num_classes=3, image_size=8, binary=False)
    with pytest.raises(ValueError, match="`binary=True`"), watch(twin, stream=True):
        pass
