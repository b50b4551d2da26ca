"""Classifiers of torchvision and timm: their own logits, normalization, and weights from a file."""

import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn
from torchvision.transforms.v2.functional import normalize

from bnn_lightning.models import RealNetwork, timm_network, torchvision_network
from bnn_lightning.models.float_teachers import IMAGENET_MEAN, IMAGENET_STD

NAMES = ["resnet18", "efficientnet_b0", "convnext_tiny", "mobilenet_v2"]


def plain(name, **options):
    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None, **options)


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_torchvisions_of_normalised_images(name, tmp_path: Path):
    theirs = plain(name, num_classes=7)
    torch.save({"state_dict": {f"module.{k}": v for k, v in theirs.state_dict().items()}}, tmp_path / "x.pth")
    ours = torchvision_network(name, num_classes=7, image_size=64, weights=str(tmp_path / "x.pth"))
    images = torch.rand(2, 3, 64, 64)
    normalized = normalize(images, list(IMAGENET_MEAN), list(IMAGENET_STD))
    expected = theirs.eval()(normalized)
    assert torch.equal(ours.eval()(images), expected)
    features = ours.forward_head(ours.forward_features(images), pre_logits=True)
    assert features.shape == (2, ours.num_features)
    assert torch.equal(ours.linear(features), expected)
    names = dict(ours.named_modules())
    assert ours.feature_taps()
    assert all(tap in names for tap in [*ours.feature_taps(), ours.classifier_name])


def test_gray_images_are_shown_on_three_channels():
    torch.manual_seed(0)
    network = torchvision_network("resnet18", num_classes=10, in_channels=1, pretrained=False).eval()
    images = torch.rand(2, 1, 32, 32)
    network.in_channels = 3
    expected = network(images.repeat(1, 3, 1, 1))
    network.in_channels = 1
    assert torch.equal(network(images), expected)


def test_own_weights_come_from_the_cache(monkeypatch: pytest.MonkeyPatch):
    theirs = plain("resnet18")
    asked = []

    def fetch(url, **_):
        asked.append(url)
        return theirs.state_dict()

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    ours = torchvision_network("resnet18", num_classes=1000)
    assert asked == ["https://download.pytorch.org/models/resnet18-f37072fd.pth"]
    assert torch.equal(ours.linear.weight, theirs.fc.weight)


def test_without_a_network_the_message_names_file_and_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def fetch(url, **_):
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        torchvision_network("resnet34", num_classes=1000)
    for part in ("resnet34-b627a593.pth", str(tmp_path / "checkpoints"), "weights=<path>", "pretrained=false"):
        assert part in str(caught.value)


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path):
    torch.save(plain("resnet34", num_classes=5).state_dict(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"do not fit ResNet\. Unknown to the network: layer1\.2\.conv1\.weight"):
        torchvision_network("resnet18", num_classes=5, weights=str(tmp_path / "x.pth"))
    with pytest.raises(ValueError, match=r"Of another shape: fc\.weight \(file \(5, 512\), network \(6, 512\)\)"):
        torchvision_network("resnet34", num_classes=6, weights=str(tmp_path / "x.pth"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet19", "num_classes": 10}, "torchvision has no classifier `resnet19`"),
        ({"name": "resnet18", "num_classes": 10}, "know 1000 classes, and `num_classes` is 10"),
        ({"name": "resnet18", "num_classes": 1000, "version": "V9"}, "`version` of `resnet18` must be one of"),
        ({"name": "resnet18", "num_classes": 2, "in_channels": 6, "pretrained": False}, "`in_channels` must be 1 or 3"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        torchvision_network(**options)


def test_squeezenet_has_a_convolution_and_what_follows_as_its_head(tmp_path: Path):
    theirs = plain("squeezenet1_1", num_classes=7).eval()
    torch.save(theirs.state_dict(), tmp_path / "x.pth")
    ours = torchvision_network("squeezenet1_1", num_classes=7, image_size=64, weights=str(tmp_path / "x.pth")).eval()
    images = torch.rand(2, 3, 64, 64)
    expected = theirs(normalize(images, list(IMAGENET_MEAN), list(IMAGENET_STD)))
    assert torch.equal(ours(images), expected)
    features = ours.forward_features(images)
    assert torch.equal(ours.forward_head(features), expected)
    averages = ours.forward_head(features, pre_logits=True)
    torch.testing.assert_close(averages, features.mean((2, 3)))
    assert averages.shape == (2, ours.num_features)
    ours.reset_classifier(5)
    assert ours(images).shape == (2, ours.num_classes) == (2, 5)


class HeadOfItsOwn(nn.Module):
    """A convolution as classifier, with a use that its modules do not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 7, 1), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.conv(x).flatten(2).amax(2))


def test_a_convolution_with_an_unknown_use_is_refused():
    with pytest.raises(ValueError, match=r"ReLU follows .*`conv`"):
        RealNetwork(HeadOfItsOwn(), num_classes=7)


def test_timm_is_an_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModuleNotFoundError, match=r"bnn-lightning\[teachers\]"):
        timm_network("resnet18", num_classes=10)


@pytest.mark.parametrize("name", ["dla34", "resnetv2_18"])
def test_a_convolution_of_averages_is_the_classifier(name):
    timm = pytest.importorskip("timm", reason="needs the extra `teachers`")
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=7).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs(images)
        ours = RealNetwork(theirs, num_classes=7, image_size=64, mean=None, std=None)
        torch.testing.assert_close(ours(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "heads"), [("crossvit_tiny_240", r"head\.0, head\.1"), ("levit_128s", "head_dist")])
def test_several_heads_are_refused_by_name(name, heads):
    pytest.importorskip("timm", reason="needs the extra `teachers`")
    with pytest.raises(ValueError, match=f"must have one classifier, and has 2: .*{heads}"):
        timm_network(name, num_classes=7, pretrained=False)


def test_timm(tmp_path: Path):
    timm = pytest.importorskip("timm", reason="needs the extra `teachers`")
    torch.manual_seed(0)
    theirs = timm.create_model("efficientnet_b0", num_classes=7).eval()
    torch.save(theirs.state_dict(), tmp_path / "x.pth")
    pytest.importorskip("safetensors.torch").save_file(theirs.state_dict(), tmp_path / "x.safetensors")
    ours = timm_network("efficientnet_b0", num_classes=7, weights=str(tmp_path / "x.safetensors")).eval()
    images = torch.rand(2, 3, 64, 64)
    mean, std = (theirs.pretrained_cfg[key] for key in ("mean", "std"))
    normalized = normalize(images, list(mean), list(std))
    assert torch.equal(ours(images), theirs(normalized))
    assert isinstance(ours, RealNetwork)
    assert all(tap in dict(ours.named_modules()) for tap in ours.feature_taps())
    with pytest.raises(ValueError, match="timm has no classifier `efficientnet_b99`"):
        timm_network("efficientnet_b99", num_classes=7)
    with pytest.raises(FileNotFoundError, match="is not a file"):
        timm_network("resnet18", num_classes=7, weights=str(tmp_path / "none.pth"))
    with pytest.raises(ValueError, match="do not fit"):
        timm_network("resnet18", num_classes=7, weights=str(tmp_path / "x.pth"))
