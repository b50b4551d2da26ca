import inspect

import pytest

from bnn_lightning.models import backbone_signature, create_backbone, list_backbones, register_backbone, registry
from bnn_lightning.models.backbone import Backbone

COMMON = {
    "num_classes": inspect.Parameter.empty,
    "in_channels": 3,
    "image_size": inspect.Parameter.empty,
    "mean": None,
    "std": None,
    "binary": True,
    "input_binarizer": None,
    "weight_binarizer": None,
}


@pytest.fixture
def builders(monkeypatch):
    list_backbones()
    copy = dict(registry._BUILDERS)
    monkeypatch.setattr(registry, "_BUILDERS", copy)
    return copy


def test_names_of_the_issue_are_registered():
    assert {"mlp", "resnet18", "resnet18_double_skip", "resnet20", "vgg_small"} <= set(list_backbones())


@pytest.mark.parametrize("name", list_backbones())
def test_every_builder_takes_the_common_options_by_keyword(name):
    parameters = backbone_signature(name).parameters
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters.values())
    assert {option: parameters[option].default for option in COMMON} == COMMON


@pytest.mark.parametrize("name", list_backbones())
def test_every_option_is_documented(name):
    list_backbones()
    doc = inspect.getdoc(registry._BUILDERS[name])
    assert doc is not None
    assert all(f"\n    {option}: " in doc for option in backbone_signature(name).parameters)


def test_unknown_name_lists_the_known_and_guesses():
    with pytest.raises(
        ValueError, match=r"Unknown backbone `resnet_20`\. Did you mean `resnet20`\? Known: .*vgg_small"
    ):
        create_backbone("resnet_20", num_classes=10, image_size=32)
    with pytest.raises(ValueError, match=r"Unknown backbone `zzz`\. Known: "):
        backbone_signature("zzz")


def test_unknown_option_lists_the_options_and_guesses():
    with pytest.raises(
        ValueError, match=r"`mlp` has no option `widht`\. Did you mean `width`\? It takes: num_classes, .*dropout"
    ):
        create_backbone("mlp", num_classes=10, image_size=8, widht=4)


def test_missing_option_is_named():
    with pytest.raises(ValueError, match=r"Backbone `mlp` needs a value for `num_classes`, `image_size`\."):
        create_backbone("mlp")


def test_register_takes_the_function_name(builders):
    @register_backbone
    def tiny(*, num_classes: int, image_size: int) -> Backbone:
        return create_backbone("mlp", num_classes=num_classes, image_size=image_size, width=4)

    assert "tiny" in list_backbones()
    assert create_backbone("tiny", num_classes=3, image_size=8).num_classes == 3


def test_a_duplicate_is_refused(builders):
    def mlp(*, num_classes: int) -> Backbone:
        raise AssertionError

    with pytest.raises(ValueError, match=r"`mlp` is registered already, by `bnn_lightning\.models\.mlp`"):
        register_backbone(mlp)


def test_a_notebook_may_define_its_network_again(builders):
    def net(*, num_classes: int) -> Backbone:
        raise AssertionError

    net.__module__ = "__main__"
    register_backbone(net)
    register_backbone(net)
    assert builders["net"] is net


def test_positional_arguments_are_refused(builders):
    def net(num_classes: int) -> Backbone:
        raise AssertionError

    with pytest.raises(ValueError, match=r"`net` must be keyword-only, `num_classes` is not"):
        register_backbone(net)
