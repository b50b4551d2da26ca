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


class Asserting(Own):
    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.shape[-1] == 32, "images must have 32 pixels")
        return super().forward(x)


class Unfinished(nn.Module):
    in_channels, image_size = 1, 8


class WithoutCPU(Own):
    """A network with an operator that another device has."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


class FirstBatch(Own):
    """A network that takes a shift, a scale, a step and a flag from its first batch, and counts batches."""

    calls, is_set = 0, False

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.is_set = 0, False
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("shift", torch.full((), 5.0))
        self.register_buffer("step", None)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen += 1
        if not self.is_set:
            self.is_set = True
            self.shift.copy_(x.mean())
            self.step = x.std()
            self.scale.data = x.std() + 1e-3
        return super().forward((x - self.shift) / self.scale)


class Larger(Own):
    image_size = 9


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Two(), r"Two must take one argument.*\(2, 1, 8, 8\).*'y'"),
        (Larger(), r"Larger must take .*\(2, 1, 9, 9\)"),
        (Asserting(), r"Asserting must take .*must have 32 pixels"),
        (Unfinished(), r"Unfinished must take .*forward"),
        (WithoutCPU(RuntimeError("size mismatch")), r"WithoutCPU must take .*size mismatch"),
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


@pytest.mark.parametrize(
    "error",
    [
        NotImplementedError("Could not run 'own::sign' with arguments from the 'CPU' backend."),
        RuntimeError("\"conv_depthwise\" not implemented for 'CPU'"),
    ],
)
def test_operators_that_the_cpu_lacks_are_not_tried(error: Exception) -> None:
    network = WithoutCPU(error)
    check_network(network, 3)
    assert network.training


def test_nothing_is_taken_from_the_images_of_zeros() -> None:
    network, images = FirstBatch().eval(), torch.rand(4, 1, 8, 8)
    scale = network.scale
    check_network(network, 3)
    assert (network.calls, int(network.seen), network.step) == (0, 0, None)
    assert (network.is_set, float(network.shift), network.scale.item()) == (False, 5.0, 1.0)
    network(images)
    assert torch.equal(network.shift, images.mean())
    assert torch.equal(network.step, images.std())
    assert network.scale is scale


def test_networks_of_torchscript_and_lazy_ones_are_tried() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    for network in (nn.Sequential(scripted), nn.Sequential(nn.Flatten(), nn.LazyLinear(3))):
        network.in_channels, network.image_size = 1, 8
        check_network(network, 3)
        assert network(torch.zeros(1, 1, 8, 8)).shape == (1, 3)


def test_images_are_on_the_device_of_the_network() -> None:
    check_network(Own().to("meta"), 3)


def test_sequences_are_not_tried() -> None:
    network = nn.Conv1d(1, 4, 3)
    network.in_channels = 1
    check_network(network, 3)


def test_profile_names_a_network_of_two_inputs() -> None:
    facts = {"in_channels": 1, "image_size": 8}
    with pytest.raises(UserError, match=r"bilinear must take one argument.*\(1, 1, 8, 8\)"):
        profile_config({"_target_": "torch.nn.Bilinear", "name": "bilinear", **SIZES}, facts, trust=["torch"])
