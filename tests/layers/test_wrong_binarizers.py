"""Binarizers of the wrong kind, names and classes are refused when the layer or the network is made."""

from functools import partial
from typing import Any

import pytest
from torch import nn

from bnn_lightning.binarizers import RSign, SignSTE, XNORScale, binarizer_factory
from bnn_lightning.layers import BinaryConv1d, BinaryConv2d, BinaryConvTranspose2d, BinaryLinear
from bnn_lightning.models import create_backbone


@pytest.mark.parametrize(
    "layer",
    [
        partial(BinaryConv1d, 4, 4, 3),
        partial(BinaryConv2d, 4, 4, 3),
        partial(BinaryConvTranspose2d, 4, 4, 3),
        partial(BinaryLinear, 4, 4),
    ],
)
@pytest.mark.parametrize("argument", ["input_binarizer", "weight_binarizer"])
def test_layers(layer: Any, argument: str) -> None:
    right, wrong = (SignSTE, XNORScale) if argument == "input_binarizer" else (XNORScale, SignSTE)
    layer(**{argument: right()})
    for given, what in (
        (wrong(), wrong.__name__),
        (right, f"the class {right.__name__}"),
        (right.__name__, "the name"),
    ):
        with pytest.raises(TypeError, match=f"`{argument}` must be .*, got {what}"):
            layer(**{argument: given})
    with pytest.raises(TypeError, match="got Identity"):
        layer(**{argument: nn.Identity()})


@pytest.mark.parametrize("argument", ["input_binarizer", "weight_binarizer"])
@pytest.mark.parametrize(
    "given",
    ["SignSTE", SignSTE, SignSTE(), partial(SignSTE), partial(XNORScale, gradient="identity"), 3, ["SignSTE"]],
    ids=str,
)
def test_networks(given: Any, argument: str) -> None:
    with pytest.raises(TypeError, match=f"`{argument}` must be (a factory|called with)"):
        create_backbone("mlp", num_classes=2, image_size=4, width=4, **{argument: given})


def test_factories() -> None:
    def xnor(num_channels: int) -> XNORScale:
        return XNORScale(gradient="identity")

    options: dict[str, Any] = {"num_classes": 2, "image_size": 4, "width": 4}
    for inputs in (RSign, partial(RSign, surrogate="sign_ste"), binarizer_factory("SignSTE", clip=1.5)):
        create_backbone("mlp", input_binarizer=inputs, weight_binarizer=xnor, **options)
    with pytest.raises(ValueError, match="`weight_binarizer` must make a WeightBinarizer, got RSign"):
        create_backbone("mlp", weight_binarizer=RSign, **options)
