"""Families of torchvision and timm with binary layers: a step of SKD, packed, written, and equal; or refused."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bnn_lightning.deploy import Comparison, GraphError, PackedInfo, PackedNetwork, load, pack, save
from bnn_lightning.distill import SelfKD
from bnn_lightning.distill.base import Batch, Outputs
from bnn_lightning.layers import binary_layers
from bnn_lightning.models import RealNetwork, binary_timm, binary_torchvision

BUILD = {"torchvision": binary_torchvision, "timm": binary_timm}
# Library, name, side of the images, binary layers, and the number of operations of the plan that torch computes.
NATIVE = [
    ("torchvision", "alexnet", 64, 6, 1),
    ("torchvision", "vgg11", 32, 9, 1),
    ("torchvision", "resnet18", 32, 16, 0),
    ("torchvision", "resnext50_32x4d", 32, 48, 0),
    ("torchvision", "densenet121", 32, 119, 0),
    ("torchvision", "mnasnet0_5", 32, 34, 0),
    ("torchvision", "mobilenet_v2", 32, 34, 0),
    ("torchvision", "mobilenet_v3_small", 32, 23, 0),
    ("torchvision", "shufflenet_v2_x0_5", 32, 36, 0),
    ("torchvision", "efficientnet_b0", 32, 32, 0),
    ("torchvision", "efficientnet_v2_s", 32, 79, 0),
    ("torchvision", "regnet_x_400mf", 32, 66, 0),
    ("torchvision", "squeezenet1_1", 64, 24, 0),
    ("timm", "test_resnet", 64, 11, 0),
    ("timm", "test_byobnet", 64, 9, 0),
    ("timm", "test_efficientnet", 64, 10, 0),
    ("timm", "test_efficientnet_ln", 64, 10, 0),
    ("timm", "mobilenetv3_small_050", 64, 23, 0),
    ("timm", "test_mambaout", 64, 17, 11),
]
# Networks that a packed file cannot hold: their layers are packed, and torch runs them.
NOT_WRITTEN = [
    ("torchvision", "vit_b_32", 224, 24, "scaled_dot_product_attention"),
    ("timm", "test_vit", 160, 24, "aten.unbind.int"),
    ("timm", "test_convnext", 64, 21, "`gelu` with approximate=tanh"),
]
REFUSED = [
    ("torchvision", "googlenet", 64, "No binary layer of `googlenet`"),
    ("torchvision", "inception_v3", 96, "No binary layer of `inception_v3`"),
    ("torchvision", "swin_t", 32, r"never calls `body\.features\.1\.0\.attn\.qkv`"),
    ("torchvision", "swin_v2_t", 64, r"never calls `body\.features\.1\.0\.attn\.qkv`"),
    ("torchvision", "vit_b_16", 32, r"does not take an input of shape"),
    ("torchvision", "maxvit_t", 32, "does not take an input of shape"),
    ("timm", "test_nfnet", 64, "no binary layer for .*ScaledStdConv2d"),
    ("timm", "crossvit_tiny_240", 64, "must have one classifier"),
]


def build(library: str, name: str, size: int) -> RealNetwork:
    pytest.importorskip(library)
    return BUILD[library](name, num_classes=10, image_size=size)


def prepared(library: str, name: str, size: int, number: int) -> tuple[RealNetwork, Tensor]:
    """Return a network, after a step with itself as its teacher in which every binary layer has a gradient; images."""
    torch.manual_seed(0)
    network, images = build(library, name, size), torch.rand(2, 3, size, size)
    assert len(binary_layers(network)) == number
    for module in network.modules():  # timm starts the last norm of a block with zeros, behind which nothing learns
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim == 1 and not weight.any():
            nn.init.ones_(weight)
    distiller, labels = SelfKD(num_classes=10), torch.arange(len(images))
    distiller.prepare(network)
    with distiller.watch(network.train()) as taps:
        logits = network(images)
    losses = distiller(Batch(images, labels), Outputs(logits, taps.features, taps))
    assert losses["feature"] > 0
    distiller.total(losses).backward()
    for at, layer in binary_layers(network).items():
        assert layer.weight.grad is not None, at
        assert layer.weight.grad.abs().sum() > 0, at
    torch.optim.SGD(network.parameters(), 1e-2).step()
    with torch.no_grad():
        network(images)  # batch norms note the statistics of the new weights
    return network.eval(), images


def assert_packed_as_trained(network: RealNetwork, images: Tensor) -> PackedNetwork:
    packed = pack(network)
    comparison = Comparison(network, packed)
    comparison.update(images)
    assert comparison.parity.faults == []
    assert comparison.parity.largest_difference < 1e-4
    assert packed.report.left == {}
    return packed


@pytest.mark.slow
@pytest.mark.parametrize(("library", "name", "size", "number", "in_torch"), NATIVE)
def test_a_family_trains_packs_and_is_written(
    library: str, name: str, size: int, number: int, in_torch: int, tmp_path: Path
) -> None:
    network, images = prepared(library, name, size, number)
    packed = assert_packed_as_trained(network, images)
    assert (packed.report.unplanned, len(packed.report.in_torch)) == ("", in_torch)
    save(packed, tmp_path / "net.bnn", PackedInfo(name, 3, size))
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "net.bnn")(images), network(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("library", "name", "size", "number", "words"), NOT_WRITTEN)
def test_a_family_that_no_file_holds_packs_in_torch(
    library: str, name: str, size: int, number: int, words: str, tmp_path: Path
) -> None:
    packed = assert_packed_as_trained(*prepared(library, name, size, number))
    assert words in packed.report.unplanned
    with pytest.raises(GraphError, match=words):
        save(packed, tmp_path / "net.bnn", PackedInfo(name, 3, size))
    assert not (tmp_path / "net.bnn").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("library", "name", "size", "words"), REFUSED)
def test_a_family_is_refused(library: str, name: str, size: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(library, name, size)
