"""`bnn profile`: a network of the configuration or of a checkpoint, counted alike, and nothing written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bnn_lightning.metrics import profile_network
from bnn_lightning.workflows.profiling import profile_quickly

Bnn = Callable[..., Any]
RESNET = ("model=resnet20", "model.width=4", "data=cifar10")
SYNTHETIC = ("data=synthetic", "data.image_size=8", "model=mlp", "model.width=16")


def test_text(bnn: Bnn, workplace: Path) -> None:
    done = bnn("profile", *RESNET)
    assert done.code == 0, done.err
    assert done.out.startswith("resnet20 on cifar10, an image of 3 x 32 x 32\n\nlayer")
    assert "BOPs/64 + FLOPs/8" in done.out
    assert list(workplace.iterdir()) == []


def test_a_network_alone_is_counted_on_imagenet(bnn: Bnn, workplace: Path) -> None:
    done = bnn("profile", "model=bnext")
    assert done.code == 0, done.err
    assert done.out.startswith("bnext_tiny on imagenet, an image of 3 x 224 x 224\nno data was named, and so")
    named, alone = (
        json.loads(bnn("profile", "model=birealnet18", *data, "format=json").out) for data in (["data=imagenet"], [])
    )
    assert (named.pop("data_assumed"), alone.pop("data_assumed")) == (False, True)
    assert alone == named
    assert list(workplace.iterdir()) == []
    done = bnn("profile", "model=birealnet18", "format=csv")
    assert done.out.startswith("name,kind,parameters,")
    assert "no data was named" in done.err


def test_csv_has_a_line_a_layer(bnn: Bnn) -> None:
    lines = bnn("profile", *RESNET, "format=csv").out.splitlines()
    assert lines[0].startswith("name,kind,parameters,")
    assert lines[-1].startswith("total,,")


def test_a_checkpoint_is_counted_as_its_configuration(trained: Any, bnn: Bnn) -> None:
    of_config = json.loads(bnn("profile", *SYNTHETIC, "format=json").out)
    done = bnn("profile", f"ckpt={trained.final}", "format=json")
    assert done.code == 0, done.err
    of_checkpoint = json.loads(done.out)
    assert of_checkpoint.pop("ckpt") == str(trained.final)
    assert of_checkpoint == of_config
    assert of_config["totals"]["mixed_macs"] == 3 * 8 * 8 * 16


def test_a_run_says_its_profile_in_a_line(trained: Any) -> None:
    # Weights of 192 x 16 and 2 x 16 x 16 are binary.
    real = 3 * (16 + 32) + 17 * 10
    assert f"mlp: {3584 + real:,} parameters, {100 * 3584 / (3584 + real):.2f} % binary; " in trained.out


@pytest.mark.parametrize(
    "words, message",
    [
        ("", "name the network, and the data whose images it sees"),
        ("data=cifar10", "name the network, and the data whose images it sees"),
        ("ckpt=TRAINED model=mlp", "says itself which network it is"),
        ("ckpt=nowhere.ckpt", "no such file"),
        ("model=mlp data=digits format=xml", "`format` must be text, json or csv, got xml"),
        ("model=resnet20 data=cifar10 model.with=4", "Did you mean `model.width`?"),
    ],
)
def test_one_clear_message(words: str, message: str, trained: Any, bnn: Bnn) -> None:
    done = bnn("profile", *words.replace("TRAINED", str(trained.final)).split())
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


class LooksAtValues(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) if input.sum().item() == 0 else input


def test_a_network_that_looks_at_values_is_counted_too() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    profile = profile_quickly(lambda: nn.Sequential(nn.Flatten(), LooksAtValues(12, 5)), (3, 2, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert profile == profile_network(nn.Sequential(nn.Flatten(), LooksAtValues(12, 5)), (3, 2, 2))
