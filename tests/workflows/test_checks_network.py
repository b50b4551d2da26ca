"""Networks that make no logits of images are refused before training, and before they are counted."""

import pytest
import torch
from torch import Tensor, nn

from bnn_lightning.workflows.checks_network import check_network
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.profiling import profile_config

SIZES = {"in1_features": 8, "in2_features": 8, "out_features": 3}


class Own(nn.Sequential):
    """A classifier of images (N, 1, 8, 8), with dropout and a batch norm."""

    in_channels, image_size = 1, 8

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__(nn.Flatten(), nn.Dropout(), nn.BatchNorm1d(64), nn.Linear(64, num_classes))


class Two(Own):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x + y)


class Pair(Own):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x), x


class Maps(Own):
    def forward(self, x: Tensor) -> Tensor:
        return x.expand(-1, 3, -1, -1)


class Larger(Own):
    image_size = 9


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Two(), r"Two must take one argument.*\(2, 1, 8, 8\).*'y'"),
        (Larger(), r"Larger must take .*\(2, 1, 9, 9\)"),
        (Pair(), r"Pair must return logits.*\(N, 3\).*a tuple"),
        (Maps(), r"Maps must return logits.*the shape \(2, 3, 8, 8\)"),
        (Own(2), r"Own must return logits.*\(N, 3\).*the shape \(2, 2\)"),
    ],
)
def test_what_does_not_classify_images_is_refused(network: nn.Module, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_network(network, 3)


def test_a_network_is_left_as_it_was() -> None:
    network = Own()
    network[1].eval()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    check_network(network, 3)
    assert torch.equal(torch.rand(1), expected)
    assert [module.training for module in network] == [True, False, True, True]
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_sequences_are_not_tried() -> None:
    network = nn.Conv1d(1, 4, 3)
    network.in_channels = 1
    check_network(network, 3)


def test_profile_names_a_network_of_two_inputs() -> None:
    facts = {"in_channels": 1, "image_size": 8}
    with pytest.raises(UserError, match=r"bilinear must take one argument.*\(1, 1, 8, 8\)"):
        profile_config({"_target_": "torch.nn.Bilinear", "name": "bilinear", **SIZES}, facts, trust=["torch"])
