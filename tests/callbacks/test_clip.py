from typing import Any

import pytest
import torch
from torch import nn

from bnn_lightning.binarizers import WeightSign
from bnn_lightning.callbacks import BiasClip, LatentClip
from bnn_lightning.layers import BinaryLinear


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


@pytest.mark.parametrize("callback", [LatentClip, BiasClip])
def test_errors(callback: Any) -> None:
    for limit in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="`limit` must be positive"):
            callback(limit)


def test_no_binary_layer() -> None:
    LatentClip().on_train_batch_end(None, nn.Linear(2, 2))  # type: ignore[arg-type]
    BiasClip().on_train_batch_end(None, nn.Linear(2, 2))  # type: ignore[arg-type]
