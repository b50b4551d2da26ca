"""Networks of torchvision and timm with binary layers, as backbones."""

import pytest
import torch
import torchvision
from torch import nn

from bnn_lightning.layers.module_utils import binary_layers
from bnn_lightning.models import binary_timm, binary_torchvision, torchvision_network
from bnn_lightning.models.float_teachers import IMAGENET_MEAN, rebuilding

SMALL = {"num_classes": 10, "image_size": 32}


@pytest.mark.parametrize(
    "name, number, first",
    [("resnet18", 16, "body.layer1.0.conv1"), ("mobilenet_v3_small", 23, "body.features.1.block.2.0")],
)
def test_layers_of_torchvisions_networks(name, number, first):
    network = binary_torchvision(name, **SMALL)
    layers = binary_layers(network)
    assert len(layers) == number
    assert next(iter(layers)) == first
    images = torch.rand(2, 3, 32, 32)
    network.train()(images).sum().backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in layers.values())
    assert network.feature_taps()


def test_timms_network_has_the_layers_of_torchvisions():
    theirs = {name.replace("fc", "linear") for name in binary_layers(binary_torchvision("resnet18", **SMALL))}
    assert set(binary_layers(binary_timm("resnet18", **SMALL))) == theirs


@pytest.mark.parametrize("stem, stride, pool", [(None, 1, nn.Identity), ("imagenet", 2, nn.MaxPool2d)])
def test_the_stem_for_small_images(stem, stride, pool):
    body = binary_torchvision("resnet18", **SMALL, stem=stem).body
    assert (body.conv1.stride, type(body.maxpool)) == ((stride, stride), pool)


def test_a_patch_stem_keeps_two_pixels():
    with torch.device("meta"):
        body = binary_torchvision("convnext_tiny", **SMALL).body
    assert body.features[0][0].stride == (2, 2)


def test_all_branches_of_a_stem_keep_the_resolution():
    with torch.device("meta"):
        stem = binary_timm("repvgg_a0", **SMALL).body.stem
    assert stem.conv_kxk.conv.stride == stem.conv_1x1.conv.stride == (1, 1)


def test_the_float_twin_has_the_same_tensors_and_torchs_arithmetic():
    twin = binary_torchvision("resnet18", **SMALL, stem="imagenet", binary=False).eval()
    network = binary_torchvision("resnet18", **SMALL)
    network.load_state_dict(twin.state_dict())
    assert not binary_layers(twin)
    theirs = binary_torchvision("resnet18", **SMALL, stem="imagenet", binary=False, binarize={"activation": None})
    plain = torchvision_network("resnet18", **SMALL, pretrained=False)
    plain.normalize = theirs.normalize
    plain.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(theirs.eval()(images), plain.eval()(images))


def test_binary_activations_with_real_weights():
    rules = {"body.layer1.*": {"weight_binarizer": "Libra", "input_binarizer": "SignSTE"}}
    network = binary_torchvision("resnet18", **SMALL, binary="activations", binarize={"rules": rules})
    conv = network.body.layer1[0].conv1
    assert conv.weight_binarizer is None
    assert type(conv.input_binarizer).__name__ == "SignSTE"


def test_pretrained_weights_get_a_new_classifier_and_are_not_fetched_again(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(weights=None)
    asked = []

    def fetch(url, **_):
        asked.append(url)
        return theirs.state_dict()

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    options = {**SMALL, "pretrained": True, "mean": [0.1] * 3, "std": [0.1] * 3}
    network = binary_torchvision("resnet18", **options)
    assert len(asked) == 1
    assert torch.equal(network.body.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)
    assert network.linear.out_features == network.num_classes == 10
    torch.testing.assert_close(network.normalize.mean.flatten(), torch.tensor(IMAGENET_MEAN))
    with rebuilding():
        again = binary_torchvision("resnet18", **options)
    assert len(asked) == 1
    again.load_state_dict(network.state_dict())


def test_gray_images_have_the_constants_of_one_channel():
    network = binary_torchvision("resnet18", num_classes=10, in_channels=1, image_size=8, mean=[0.5], std=[0.25])
    assert network.normalize.mean.flatten().tolist() == [0.5] * 3
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("resnet18", {"binarize": {"activation": None}}, "No binary layer of `resnet18`"),
        ("resnet18", {"binarize": {"kep": ["first"]}}, "`kep`"),
        ("resnet18", {"stem": "small"}, "'small'"),
        ("resnet18", {"binary": "weights"}, "`binary`"),
        ("resnet81", {}, "`resnet81`"),
        ("swin_t", {}, r"never calls `body\.features\.1\.0\.attn\.qkv`"),
        ("vit_b_16", {}, "does not take an input of shape"),
    ],
)
def test_what_would_go_wrong_is_said(name, options, words):
    with pytest.raises(ValueError, match=words):
        binary_torchvision(name, **SMALL, **options)
