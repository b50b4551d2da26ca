"""Files with real-valued weights in int8: their sizes, and that they compute what the rounded weights say."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bnn_lightning.binarizers import RSign
from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.deploy.validate.parity import Comparison, Parity
from bnn_lightning.layers import annealed
from bnn_lightning.layers.binary import BinaryLayer
from bnn_lightning.metrics import norm_statistics, profile_network, size_bytes
from bnn_lightning.models import create_backbone
from tests.deploy.test_convert import settled

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_networks import small_options


def real_layers(network: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    kinds = (nn.Conv2d, nn.Linear)
    return [m for m in network.modules() if isinstance(m, kinds) and not isinstance(m, BinaryLayer)]


@pytest.mark.slow
def test_sizes_of_bnext_tiny(tmp_path: Path) -> None:
    network = create_backbone("bnext_tiny", num_classes=1000, image_size=32, stem="imagenet").eval()
    for binarizer in annealed(network):
        binarizer.set_progress(1.0)
    for module in network.modules():
        if isinstance(module, RSign):
            for parameter in module.parameters():
                nn.init.constant_(parameter, 0.5)  # shifts of zero would not be stored
    count = profile_network(network, (3, 32, 32)).count
    packed = pack(network)
    sizes = {rest: save(packed, tmp_path / rest, PackedInfo("net", 3, 32), rest=rest) for rest in ("fp32", "int8")}
    real = count.parameters - count.binary_weights
    weights = sum(layer.weight.numel() for layer in real_layers(network))
    outputs = sum(len(layer.weight) for layer in real_layers(network))
    assert (real, weights, outputs) == (2_600_092, 864 + 1_024_000 + 1_482_496, 32 + 1000 + 12_276)
    assert sizes["fp32"].binary == sizes["int8"].binary == count.binary_weights // 8 == 3_531_648
    # A batch norm is a scale and a shift: as many numbers as its parameters.
    assert sizes["fp32"].rest == 4 * real
    assert sizes["int8"].rest == 4 * (real - weights) + weights + 4 * outputs
    # Against what is usually counted: with the statistics of batch norm, and without the scales of int8.
    statistics = 4 * norm_statistics(network)
    theory = {"fp32": size_bytes(count) + statistics}
    biases = outputs - 32
    theory["int8"] = theory["fp32"] - 3 * (weights + biases)
    assert (theory["fp32"], theory["int8"]) == (14_106_864, 6_544_956)
    for rest, size in sizes.items():
        tensors = size.binary + size.rest
        assert abs(tensors - theory[rest]) < 0.02 * theory[rest]
        assert size.total < 1.02 * theory[rest]


@pytest.mark.parametrize("name", ["bnext_tiny", "birealnet18", "real2binary18", "resnet20", "mlp"])
def test_they_compute_what_rounded_weights_give(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = 32 if name in ("resnet20", "mlp") else 40
    options = {} if name in ("resnet20", "mlp") else {"stem": "imagenet"}
    images = torch.rand(3, 3, size, size)
    options = small_options(name, width=16, **options)
    network = settled(create_backbone(name, num_classes=7, image_size=size, **options), images)
    packed = pack(network)
    before = save(packed, tmp_path / "net.bnn", PackedInfo("net", 3, size)).rest
    after = save(packed, tmp_path / "rounded.bnn", PackedInfo("net", 3, size), rest="int8").rest
    loaded = load(tmp_path / "rounded.bnn")
    rounded = copy.deepcopy(network)
    for layer in real_layers(rounded):
        scale = layer.weight.data.flatten(1).abs().amax(1).view(-1, *[1] * (layer.weight.dim() - 1)) / 127
        layer.weight.data = (layer.weight.data / scale).round() * scale
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), rounded(images), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(loaded(images), loaded.run_nodes(images), rtol=1e-4, atol=1e-4)
    assert after <= before


def test_unknown_precisions_are_refused(tmp_path: Path) -> None:
    network = create_backbone("resnet20", num_classes=7, image_size=32, width=8).eval()
    with pytest.raises(ValueError, match=r"`rest` must be one of \['fp32', 'int8'\], got 'fp16'"):
        save(pack(network), tmp_path / "net.bnn", PackedInfo("net", 3, 32), rest="fp16")  # type: ignore[arg-type]


def test_accuracy_is_compared_where_weights_were_rounded() -> None:
    network = create_backbone("resnet20", num_classes=3, image_size=32, width=8).eval()

    def wrong(images: torch.Tensor) -> torch.Tensor:
        logits = network(images)
        logits[:1] = logits[:1].roll(1, dims=1)
        return logits

    images = torch.rand(4, 3, 32, 32)
    labels = network(images).argmax(1)
    comparison = Comparison(network, wrong, max_drop=30.0)
    comparison.update(images, labels)
    assert comparison.parity.correct == [4, 3]
    assert comparison.parity.drop == 25.0
    assert not comparison.parity.faults
    assert "100.00 % before rounding, 75.00 % after; 1 in another class" in str(comparison.parity)
    comparison.parity.max_drop = 24.0
    assert comparison.parity.faults == ["The accuracy falls by 25.00 points, more than 24."]
    assert Parity(max_drop=1.0).faults == ["There was no image to compare."]
