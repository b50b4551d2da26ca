from typing import Any

import pytest
import torch
from torch import nn

from bnn_lightning.binarizers import WeightSign
from bnn_lightning.callbacks import BiasClip, ChannelBlendClip, LatentClip
from bnn_lightning.layers import BinaryLinear, ChannelBlend


@pytest.mark.parametrize(("callback", "clipped"), [(LatentClip(0.5), "0.weight"), (BiasClip(0.5), "0.bias")])
def test_clips_what_it_says_and_nothing_else(callback: Any, clipped: str) -> None:
    network = nn.Sequential(BinaryLinear(3, 4, weight_binarizer=WeightSign()), nn.Linear(4, 2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(2 * torch.randn_like(parameter))
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    callback.on_train_batch_end(None, network)
    for name, parameter in network.named_parameters():
        expected = before[name].clamp(-0.5, 0.5) if name == clipped else before[name]
        assert torch.equal(parameter, expected), name
        assert parameter.requires_grad


def test_mix_scales_stay_within_0_and_1() -> None:
    network = nn.ModuleList([ChannelBlend(3), nn.Conv2d(3, 3, 1)])
    with torch.no_grad():
        network[0].scale.copy_(torch.tensor([-0.1, 0.4, 1.2]))
        network[1].weight.fill_(2.0)
    ChannelBlendClip().on_train_batch_end(None, network)  # type: ignore[arg-type]
    assert network[0].scale.tolist() == pytest.approx([0.0, 0.4, 1.0])
    assert network[0].scale.requires_grad
    assert (network[1].weight == 2).all()


def test_parameters_are_looked_up_once_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    walks = []
    monkeypatch.setattr(ChannelBlendClip, "find", lambda self, model: walks.append(model) or [])
    callback, network = ChannelBlendClip(), nn.Linear(2, 2)
    for _ in range(2):
        callback.on_train_start(None, network)  # type: ignore[arg-type]
        for _ in range(3):
            callback.on_train_batch_end(None, network)  # type: ignore[arg-type]
        callback.on_train_end(None, network)  # type: ignore[arg-type]
    assert walks == [network] * 2


def test_what_is_frozen_stays_until_it_is_trained() -> None:
    network = nn.Sequential(BinaryLinear(3, 4, weight_binarizer=WeightSign()))
    nn.init.constant_(network[0].weight, 2.0)
    callback: Any = LatentClip(1.0)
    callback.on_train_start(None, network.requires_grad_(False))
    callback.on_train_batch_end(None, network)
    assert (network[0].weight == 2).all()
    callback.on_train_batch_end(None, network.requires_grad_(True))
    assert (network[0].weight == 1).all()


@pytest.mark.parametrize("callback", [LatentClip, BiasClip])
def test_errors(callback: Any) -> None:
    for limit in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="`limit` must be positive"):
            callback(limit)


@pytest.mark.parametrize("callback", [LatentClip, BiasClip])
def test_no_limit_clips_nothing(callback: Any) -> None:
    network = nn.Sequential(BinaryLinear(3, 4, weight_binarizer=WeightSign()))
    with torch.no_grad():
        network[0].weight.fill_(1e30)
        network[0].bias.fill_(float("nan"))
    callback(None).on_train_batch_end(None, network)
    assert (network[0].weight == 1e30).all()
    assert network[0].bias.isnan().all()


def test_no_binary_layer() -> None:
    LatentClip().on_train_batch_end(None, nn.Linear(2, 2))  # type: ignore[arg-type]
    BiasClip().on_train_batch_end(None, nn.Linear(2, 2))  # type: ignore[arg-type]
    ChannelBlendClip().on_train_batch_end(None, nn.Linear(2, 2))  # type: ignore[arg-type]
