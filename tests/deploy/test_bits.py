"""Packed networks have the bits of the networks that they were made from, not only their classes.

A sign changes where an activation is within a rounding of its threshold, and a class may follow. So what comes after
the sums of a layer is rounded where torch rounds it.
"""

from pathlib import Path

import pytest
import torch
from torch import nn

from bnn_lightning.binarizers import SignSTE, WeightSign, XNORScale
from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.deploy.kernels import library as kernels
from bnn_lightning.layers import BinaryConv2d, LearnableBias
from bnn_lightning.models import create_backbone
from tests.deploy.test_convert import check_folding, settled
from tests.deploy.test_real import adds_as_onednn

fused = pytest.mark.skipif(
    kernels.kernel_info().name not in ("x86_64_v4", "x86_64_v3")
    or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="products and sums are known to be fused, here and in torch, on AVX2 and AVX-512",
)


class Residual(nn.Module):
    """A binary convolution, what follows it, and the shortcut, at the place of `None`."""

    def __init__(self, *behind: nn.Module | None, scaled: bool, bias: bool) -> None:
        super().__init__()
        weights = XNORScale() if scaled else WeightSign()
        self.conv = BinaryConv2d(24, 24, 3, padding=1, bias=bias, input_binarizer=SignSTE(), weight_binarizer=weights)
        place = behind.index(None) if None in behind else len(behind)
        self.before = nn.Sequential(*(module for module in behind[:place] if module is not None))
        self.after = nn.Sequential(*(module for module in behind[place + 1 :] if module is not None))
        self.added = None in behind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.before(self.conv(x))
        return self.after(y + x if self.added else y)


def norm() -> nn.BatchNorm2d:
    return nn.BatchNorm2d(24)


CHAINS = {
    "norm": lambda: (norm(),),
    "shortcut": lambda: (norm(), None, nn.Hardtanh()),
    "shifts": lambda: (norm(), None, LearnableBias(24), nn.PReLU(24), LearnableBias(24)),
    "shift before the shortcut": lambda: (norm(), LearnableBias(24), None, nn.PReLU(24)),
    "two norms": lambda: (norm(), norm(), None),
    "shift and norm": lambda: (LearnableBias(24), norm()),
    "bare": lambda: (None, nn.PReLU(24)),
}


@fused
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chain", CHAINS)
def test_layers(chain: str, scaled: bool, bias: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Residual(*CHAINS[chain](), scaled=scaled, bias=bias))
    images = torch.randn(3, 24, 9, 10)
    settled(network, images)
    for module in network.modules():
        if isinstance(module, LearnableBias):
            nn.init.normal_(module.bias)
    packed = pack(network, images)
    check_folding(packed, images)
    with torch.no_grad():
        assert torch.equal(packed.run_layers(images), network(images))


@adds_as_onednn
@pytest.mark.parametrize("name", ["resnet20", "resnet18", "vgg_small", "birealnet18"])
def test_files(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.rand(64, 3, 32, 32)
    network = settled(create_backbone(name, num_classes=10, image_size=32, width=16), images)
    save(pack(network), tmp_path / "net.bnn", PackedInfo(name, in_channels=3, image_size=32))
    with torch.no_grad():
        wanted, found = network(images), load(tmp_path / "net.bnn")(images)
    # Behind the last sign averages and the classifier are added in another order.
    assert (wanted - found).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("dtype, near", [(torch.float64, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 0.1)])
def test_layers_of_other_types(dtype: torch.dtype, near: float) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Residual(norm(), None, nn.Hardtanh(), scaled=True, bias=False))
    images = torch.where(torch.rand(3, 24, 9, 10) < 0.5, -1.0, 1.0)
    settled(network, images)
    with torch.no_grad():
        found, wanted = pack(network, images).to(dtype)(images.to(dtype)), network(images)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), wanted, rtol=near, atol=near)
