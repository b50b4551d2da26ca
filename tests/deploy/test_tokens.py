"""Binary linear layers of tokens, (N, L, C), and reshapes of any kind, are native: no element is computed by torch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.binarizers import SignSTE, XNORScale
from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.deploy.ir.types import Images, Type
from bnn_lightning.deploy.kernels.library import supported_kernels
from bnn_lightning.deploy.planner.views import View, _reshaped
from bnn_lightning.deploy.runtime import native
from bnn_lightning.layers import BinaryConv2d, BinaryLinear

needs_kernel = pytest.mark.skipif(not supported_kernels(), reason="needs a compiled kernel")
SHAPE = (8, 4, 6)


class Net(nn.Module):
    def __init__(self, function: Callable[["Net", Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.first, self.second, self.back = linear(8, 24), linear(24, 40), linear(24, 8)
        self.across, self.wide = linear(24, 20), linear(6, 10)
        self.conv, self.few = conv(8, 16), conv(4, 8)
        self.after = conv(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x).flatten(1)


def linear(inputs: int, outputs: int) -> BinaryLinear:
    return BinaryLinear(inputs, outputs, input_binarizer=SignSTE(), weight_binarizer=XNORScale())


def conv(inputs: int, outputs: int) -> BinaryConv2d:
    return BinaryConv2d(
        inputs, outputs, 3, padding=1, input_binarizer=SignSTE(), weight_binarizer=XNORScale(), bias=False
    )


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


NETWORKS: dict[str, tuple[Callable[[Net, Tensor], Tensor], list[str]]] = {
    "one layer": (lambda s, x: s.first(tokens(x)), ["copy", "pack", "convolve", "copy"]),
    "two": (lambda s, x: s.second(s.first(tokens(x))), ["copy", "pack", "convolve", "convolve", "copy"]),
    "with ReLU": (
        lambda s, x: s.second(F.relu(s.first(tokens(x)))),
        ["copy", "pack", "convolve", "pack", "convolve", "copy"],
    ),
    "residual": (lambda s, x: s.back(s.first(tokens(x))) + tokens(x), []),
    "columns": (lambda s, x: s.first(s.across(x.flatten(2)).transpose(1, 2)), []),
    "of a map": (lambda s, x: s.wide(s.conv(x)), []),
    "back to a map": (lambda s, x: s.after(s.first(tokens(x)).transpose(1, 2).reshape(-1, 24, 4, 6)), []),
    "split channels": (
        lambda s, x: F.relu(s.conv(x).reshape(-1, 2, 16, 12)),
        ["pack", "convolve", "copy", "copy", "copy"],
    ),
    "other channels": (lambda s, x: s.few(s.conv(x).reshape(-1, 4, 8, 12)), []),
    "joined thrice": (lambda s, x: s.few(s.conv(x).reshape(-1, 3, 4, 32).permute(0, 2, 1, 3)), []),
}


@needs_kernel
@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_is_left_to_torch(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    function, kernels = NETWORKS[name]
    net = Net(function).eval()
    pixels = torch.randint(0, 256, (5, *SHAPE), dtype=torch.uint8)
    with torch.no_grad():
        packed = pack(net, pixels[:2] / 255)
        assert packed.report.unplanned == ""
        assert not packed.report.in_torch
        save(packed, tmp_path / "net.bnn", PackedInfo("net", SHAPE[0], SHAPE[1:]))
        loaded, standalone = load(tmp_path / "net.bnn"), native.load(tmp_path / "net.bnn")
        for number in (1, 2, 5):
            images = pixels[:number] / 255
            torch.testing.assert_close(packed(images), net(images), rtol=1e-6, atol=1e-6)
            assert torch.equal(loaded(images), packed(images))
            np.testing.assert_array_equal(standalone(pixels[:number].numpy()), packed(images).numpy())
    calls = [call.kernel for call in loaded.plan().calls if not hasattr(call, "reads")]
    assert not kernels or kernels == [kernel for kernel in calls if kernel in ("copy", "pack", "convolve")]


def test_rows_are_views_of_tokens_and_tokens_of_rows() -> None:
    rows = View(3, 0, (Images(6), 4), (4, 1))
    found = _reshaped(rows, Type((Images(1), 2, 3, 4)))
    assert found is not None
    assert found.strides == (24, 12, 4, 1)
    assert _reshaped(found, Type((Images(2), 3, 4))) == View(3, 0, (Images(2), 3, 4), (12, 4, 1))
    assert _reshaped(found, Type((Images(6), 4))) == rows
    apart = View(3, 0, (Images(1), 2, 3, 4), (48, 12, 4, 1))
    assert _reshaped(apart, Type((Images(6), 4))) is None
    assert _reshaped(rows, Type((Images(4), 6))) == View(3, 0, (Images(4), 6), (6, 1))
