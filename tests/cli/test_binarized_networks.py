"""`model=torchvision` from the float twin to the packed file."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import bnn_lightning
from bnn_lightning.layers import binary_layers

Bnn = Callable[..., Any]

RUN = (
    *("data=synthetic", "data.image_size=32", "data.in_channels=3", "data.num_train=16", "data.num_test=8"),
    *("data.batch_size=8", "model=torchvision", "model.name=mobilenet_v3_small", "epochs=1", "test=false"),
    *("trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.enable_model_summary=false"),
)


@pytest.mark.slow
def test_from_the_float_twin_to_the_packed_file(bnn: Bnn, workplace: Any) -> None:
    rules = "model.binarize.rules={body.features.1.*: false}"  # of the twin as well, whose ReLUs are then the same
    done = bnn("train", *RUN, "model.binary=false", rules, "name=float", "hydra.run.dir=runs/float")
    assert done.code == 0, done.err
    chosen = ("distill=teacher", "distill.teacher.ckpt=runs/float", "init_from=runs/float")
    done = bnn("train", *RUN, *chosen, rules, "hydra.run.dir=runs/binary")
    assert done.code == 0, done.err
    network = bnn_lightning.load_task("runs/binary").backbone
    assert network.body.features[0][0].stride == (1, 1)
    assert next(iter(binary_layers(network))).startswith("body.features.2.")
    done = bnn("export", "ckpt=runs/binary", "out=net.bnn", "images=8")
    assert done.code == 0, done.err
    images = torch.rand(2, 3, 32, 32)
    packed = bnn_lightning.deploy.load("net.bnn")
    torch.testing.assert_close(packed(images), network(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_rules_decide_by_the_names_of_the_profile(bnn: Bnn, workplace: Any, library: str) -> None:
    pytest.importorskip(library)
    rules = "model.binarize.rules={body.layer4.*: false, body.layer1.*: {weight_binarizer: Libra}}"
    done = bnn("profile", f"model={library}", "data=synthetic", "data.in_channels=3", "data.image_size=32", rules)
    assert done.code == 0, done.err
    kinds = dict(line.split()[:2] for line in done.out.splitlines() if line.startswith("body."))
    assert (kinds["body.layer3.0.conv1"], kinds["body.layer4.0.conv1"]) == ("BinaryConv2d", "Conv2d")


def test_a_builder_that_looks_at_values_is_profiled(bnn: Bnn, workplace: Any) -> None:
    done = bnn("profile", "model=torchvision", "model.name=regnet_y_400mf", "data=synthetic", "data.in_channels=3")
    assert done.code == 0, done.err
    assert sum(" BinaryConv2d " in line for line in done.out.splitlines()) == 48


@pytest.mark.parametrize(
    "override, words",
    [
        ("model.binarize.keep=[frist]", "'frist'"),
        ("model.binarize.activation=GELU", "'GELU'"),
        ("model.binarize.kep=[first]", "kep"),
        ("model.binarize.rules={body.layer4: false}", "'body.layer4'"),
        ("model.name=resnet81", "resnet81"),
        ("model.pretrained=1", "must be true or false"),
    ],
)
def test_mistakes_are_named(bnn: Bnn, workplace: Any, override: str, words: str) -> None:
    done = bnn("profile", "model=torchvision", "data=synthetic", override)
    assert done.code == 2
    assert words in done.err
