"""A network of one's own has no operation of torch left where kernels compute what it does, and equals torch."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.binarizers import SignSTE, WeightSign
from bnn_lightning.deploy import PackedInfo, pack, save
from bnn_lightning.deploy.kernels import library as kernels
from bnn_lightning.deploy.planner.conv import fixed_window
from bnn_lightning.deploy.planner.plan import KernelCall
from bnn_lightning.deploy.runtime import native
from bnn_lightning.layers import BinaryConv2d
from tests.deploy.test_forms import agree, in_torch, loaded

pytestmark = pytest.mark.skipif(not kernels.supported_kernels(), reason="needs a compiled kernel")
SIZE, CHANNELS = 12, 20


class Own(nn.Module):
    """A binary convolution, operations of one's own, and a classifier."""

    def __init__(self, operations: Callable[["Own", Tensor], Tensor]) -> None:
        super().__init__()
        binary = {"input_binarizer": SignSTE(), "weight_binarizer": WeightSign()}
        self.stem, self.operations = nn.Conv2d(3, CHANNELS, 3, padding=1), operations
        self.conv = BinaryConv2d(CHANNELS, CHANNELS, 3, padding=1, **binary)
        self.channels = nn.Parameter(torch.randn(CHANNELS, 1, 1))
        self.places = nn.Parameter(torch.randn(CHANNELS, SIZE, SIZE))
        self.fc = nn.LazyLinear(5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.operations(self, self.conv(self.stem(x))).flatten(1))
        return y


ARITHMETIC: dict[str, Callable[[Own, Tensor], Tensor]] = {
    "1 - x": lambda own, x: 1 - x,
    "quotient of a number": lambda own, x: 2 / (x * x + 3),
    "numbers": lambda own, x: (x * 0.3 - 0.7) / 0.6 + 1,
    "channels": lambda own, x: (x - own.channels) * own.channels / (own.channels * own.channels + 1),
    "places": lambda own, x: x * own.places + own.places,
    "spatial attention": lambda own, x: x * torch.sigmoid(x.mean(1, keepdim=True) + x.amax(1, keepdim=True)),
    "centered": lambda own, x: x - x.mean((2, 3), keepdim=True),
    "expanded": lambda own, x: x * x.sum(1, keepdim=True).expand_as(x),
    "transposed": lambda own, x: x + x.transpose(2, 3),
    "parts": lambda own, x: x[:, ::2] + x[:, 1::2],
    "rows of a map": lambda own, x: x[:, :, 3] * x[:, :, :, -2],
    "1 - rows of averages": lambda own, x: 1 - x.mean((2, 3), keepdim=True).flatten(1),
    "rows by their sum": lambda own, x: (y := x.mean((2, 3), keepdim=True).flatten(1)) * y.sum(-1, keepdim=True),
    "three dimensions": lambda own, x: F.relu6(x.flatten(2)) * F.relu(x.flatten(2)),
}
REDUCTIONS: dict[str, Callable[[Own, Tensor], Tensor]] = {
    "sum over the map": lambda own, x: x.sum((2, 3)) / 100,
    "sum over channels": lambda own, x: x.sum(1, keepdim=True),
    "sum over columns": lambda own, x: x.sum(-1),
    "maximum of rows of averages": lambda own, x: x.mean((2, 3), keepdim=True).flatten(1).amax(-1, keepdim=True),
    "maximum over the map": lambda own, x: x.amax((-2, -1), keepdim=True),
    "maximum over channels": lambda own, x: x.max(1)[0],
    "mean twice": lambda own, x: x.mean(-1).mean(-1),
    "mean of pixels": lambda own, x: x.flatten(2).mean(2),
    "mean and maximum": lambda own, x: torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1),
}
POOLS: dict[str, Callable[[Own, Tensor], Tensor]] = {
    "adaptive": lambda own, x: F.adaptive_avg_pool2d(x, (3, 4)),
    "adaptive, overlapping": lambda own, x: F.adaptive_avg_pool2d(x[:, :, :7, :7], 3),
    "adaptive rows": lambda own, x: F.adaptive_avg_pool2d(x, (None, 1)),
    "adaptive maxima": lambda own, x: F.adaptive_max_pool2d(x, (2, 6)),
    "adaptive maximum": lambda own, x: F.adaptive_max_pool2d(x, 1),
    "padding": lambda own, x: F.avg_pool2d(x, 3, 2, 1),
    "padding left out": lambda own, x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "padding, beyond the map": lambda own, x: F.avg_pool2d(x, 5, 3, 2, ceil_mode=True),
    "divisor": lambda own, x: F.avg_pool2d(x, 3, 2, 1, divisor_override=7),
}


@pytest.mark.parametrize("name", [*ARITHMETIC, *REDUCTIONS, *POOLS])
def test_nothing_is_left_to_torch(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 3, SIZE, SIZE)
    network = Own({**ARITHMETIC, **REDUCTIONS, **POOLS}[name]).eval()
    with torch.no_grad():
        wanted = network(images)
        packed = loaded(network, images, tmp_path)
        assert in_torch(packed, images) == in_torch(packed, (255 * images).byte()) == []
        agree(packed, images)
        torch.testing.assert_close(packed(images), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max() + 1))
        torch.testing.assert_close(packed(images[:1]), packed(images)[:1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("behind", [nn.ReLU(), nn.PReLU(30), nn.Hardtanh()], ids=["relu", "prelu", "hardtanh"])
def test_activations_behind_linear_layers_are_one_call(behind: nn.Module, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 3, SIZE, SIZE)
    network = Own(lambda own, x: x.mean((2, 3))).eval()
    network.fc = nn.Sequential(nn.Linear(CHANNELS, 30), behind, nn.Linear(30, 5))
    packed = loaded(network, images, tmp_path)
    plan = packed.plan(takes_bytes=False)
    assert plan.torch_nodes == ()
    assert [call.kernel for call in plan.calls if isinstance(call, KernelCall)][-3:] == ["average", "linear", "linear"]
    agree(packed, images)


def test_windows_that_differ_stay_with_torch_and_are_named(tmp_path: Path) -> None:
    images = torch.rand(2, 3, SIZE, SIZE)
    network = Own(lambda own, x: F.adaptive_avg_pool2d(x, 5)).eval()
    network(images)
    save(pack(network, images), tmp_path / "net.bnn", PackedInfo("net", 3, SIZE))
    with pytest.raises(native.RuntimeFileError, match=r"adaptive_avg_pool2d.*12x12 to 5x5.*differ"):
        native.load(tmp_path / "net.bnn")
    packed = loaded(network, images, tmp_path)
    assert in_torch(packed, images) == ["adaptive_avg_pool2d"]
    agree(packed, images)


@pytest.mark.parametrize("size", range(1, 20))
def test_fixed_windows_are_those_of_torch(size: int) -> None:
    x = torch.randn(1, 1, size, 1)
    for results in range(1, 25):
        window, wanted = fixed_window(size, results), F.adaptive_max_pool2d(x, (results, 1))
        if window is not None:
            assert torch.equal(F.max_pool2d(x, (window[0], 1), (window[1], 1)), wanted)
        else:
            assert size % results
