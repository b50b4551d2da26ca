"""Captured graphs are those that torch's own second trace gives; what it alone can say is left to it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bnn_lightning.deploy.frontend import capture as module
from bnn_lightning.deploy.frontend.capture import capture
from bnn_lightning.deploy.frontend.pack import pack_layers
from bnn_lightning.layers import annealed
from bnn_lightning.models import create_backbone, list_backbones
from tests.deploy.test_convert import least_size
from tests.small_networks import small_options, without_repeats

IN_GATE = ("resnet20", "bnext18")
NAMES = [name if name in IN_GATE else pytest.param(name, marks=pytest.mark.slow) for name in list_backbones()]


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[bool]]:
    """Count the traces that are rewritten; after the call, leave all to torch."""
    rewritten: list[bool] = []
    rewrite = module.out_of_place

    def counted(*arguments: object) -> bool:
        rewritten.append(rewrite(*arguments))  # type: ignore[arg-type]
        return rewritten[-1]

    monkeypatch.setattr(module, "out_of_place", counted)

    def end() -> list[bool]:
        monkeypatch.setattr(module, "out_of_place", lambda *_: False)
        return rewritten

    return end


@pytest.mark.parametrize("name", NAMES)
def test_networks_have_the_graph_of_a_second_trace(name: str, by_torch: Callable[[], list[bool]]) -> None:
    torch.manual_seed(0)
    size = least_size(name)
    network = create_backbone(name, num_classes=5, image_size=size, **small_options(name, width=8))
    network = without_repeats(network).eval()
    for binarizer in annealed(network):
        binarizer.set_progress(1.0)
    packed, example = pack_layers(network).network, torch.rand(2, 3, size, size)
    found = capture(packed, example)
    assert by_torch() == [True]
    expected = capture(packed, example)
    assert found.plain() == expected.plain()
    assert [constant.name for constant in found.constants] == [constant.name for constant in expected.constants]
    assert all((a.array == b.array).all() for a, b in zip(found.constants, expected.constants, strict=True))


class OverwritesWhatIsReadLater(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        z = y.add_(1)
        return y + z


class ForgetsTheResult(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        y.relu_()
        return y - 1


class OverwritesAView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        y[:, :1].mul_(3)
        return y


class OverwritesUnderAView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        view = y.transpose(2, 3)
        y.add_(1)
        return view + y


class OverwritesItself(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x - 0.5
        return y.mul_(y)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.act = nn.Hardtanh(inplace=True)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm(x).to(x.dtype)).add_(x)
        return self.drop(torch.flatten(nn.functional.adaptive_avg_pool2d(y, 1), 1)).view(x.shape[0], -1)


@pytest.mark.parametrize(
    ("network", "rewritten"),
    [
        (OverwritesWhatIsReadLater(), True),  # a trace names what is read, not the variable
        (ForgetsTheResult(), True),
        (OverwritesAView(), False),
        (OverwritesUnderAView(), False),
        (OverwritesItself(), True),
        (Plain(), True),
    ],
    ids=lambda item: type(item).__name__,
)
def test_what_others_see_is_not_rewritten(
    network: nn.Module, rewritten: bool, by_torch: Callable[[], list[bool]]
) -> None:
    example = torch.rand(2, 3, 4, 4)
    try:
        found = capture(network.eval(), example).plain()
    except module.GraphError:  # a view is written with operations that a file does not have
        found = []
    assert by_torch() == [rewritten]
    assert not found or found == capture(network, example).plain()
