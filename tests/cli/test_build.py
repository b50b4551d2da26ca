import importlib
import inspect
from typing import Any

import pytest
import torch
from torch import nn

from bnn_lightning.binarizers import SignSTE
from bnn_lightning.callbacks import AtomicCheckpointIO
from bnn_lightning.layers import binary_layers
from bnn_lightning.workflows.allowed import ALLOWED, SUBPACKAGES
from bnn_lightning.workflows.building import build, build_all, check, locate
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.trainer import build_trainer


def sgd(**more: Any) -> dict[str, Any]:
    return {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1, **more}


def test_builds_nested_nodes_into_plain_containers() -> None:
    network = build(
        {
            "_target_": "bnn_lightning.models.create_backbone",
            "name": "mlp",
            "num_classes": 3,
            "in_channels": 1,
            "image_size": 4,
            "width": 8,
            "mean": [0.5],
            "std": [0.25],
            "input_binarizer": {
                "_target_": "bnn_lightning.binarizers.binarizer_factory",
                "name": "SignSTE",
                "clip": 2.0,
            },
        },
        at="model",
    )
    assert network(torch.rand(2, 1, 4, 4)).shape == (2, 3)
    layer = list(binary_layers(network).values())[-1]
    assert isinstance(layer.input_binarizer, SignSTE)
    assert layer.input_binarizer.clip == 2.0


def test_partial_gives_plain_lists() -> None:
    adam = build({"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.1, "betas": [0.8, 0.9]}, at="optimizer")
    assert type(adam.keywords["betas"]) is list
    assert adam(nn.Linear(1, 1).parameters()).param_groups[0]["betas"] == (0.8, 0.9)


@pytest.mark.parametrize("target", sorted(ALLOWED))
def test_every_allowed_class_exists_or_belongs_to_an_extra(target: str) -> None:
    assert isinstance(locate(target, at="x"), type)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "torch.load",
        "torch.hub.load",
        "torch.optim.lr_scheduler.torch.hub.load",
        "pytorch_lightning.Trainer.fit",
        "hydra.utils.get_method",
        "bnn_lightning_evil.x",
        "",
        None,
        ["os.system"],
        {"_target_": "os.system"},
    ],
)
def test_refuses_what_is_not_on_the_list(target: Any) -> None:
    with pytest.raises(UserError, match="not on the list of what may be built"):
        locate(target, at="optimizer")


@pytest.mark.parametrize(
    "target",
    [
        "bnn_lightning.cli.launch.os.system",
        "bnn_lightning.cli.launch.hydra.main",
        "bnn_lightning.models.checkpoints.torch.load",
        "bnn_lightning.cli.conf.shutil.rmtree",
    ],
)
def test_refuses_what_a_module_of_ours_only_imports(target: str) -> None:
    with pytest.raises(UserError, match="not on the list of what may be built"):
        locate(target, at="optimizer")


@pytest.mark.parametrize(
    "target",
    [
        "bnn_lightning.callbacks.checkpoint_io.save_atomically",
        "bnn_lightning.workflows.resumption.find_checkpoint",
        "bnn_lightning.workflows.checkpoint.read_checkpoint",
        "bnn_lightning.load_task",
        "bnn_lightning.data.files.download",
        "bnn_lightning.callbacks.AtomicCheckpointIO.save_checkpoint",
        "bnn_lightning.utils.lazy.attach",
    ],
)
def test_refuses_ours_that_no_package_exports(target: str) -> None:
    with pytest.raises(UserError, match="Of ours that is what a package exports, as"):
        locate(target, at="model")


@pytest.mark.parametrize("target", ["bnn_lightning.callbacks.save_atomically", "bnn_lightning.data.files"])
def test_refuses_what_a_package_does_not_export(target: str) -> None:
    with pytest.raises(UserError, match="does not exist"):
        locate(target, at="model")


@pytest.mark.parametrize("package", SUBPACKAGES)
def test_every_export_of_a_package_that_can_be_called_may_be_built(package: str) -> None:
    module = importlib.import_module(f"bnn_lightning.{package}")
    for name in module.__all__:
        if inspect.isclass(getattr(module, name)):
            assert locate(f"bnn_lightning.{package}.{name}", at="x") is getattr(module, name)


@pytest.mark.parametrize("target", ["bnn_lightning.cli", "bnn_lightning.models.registry.FAMILIES"])
def test_refuses_what_cannot_be_called(target: str) -> None:
    with pytest.raises(UserError):
        locate(target, at="optimizer")


def test_refuses_targets_at_any_depth() -> None:
    evil = {"_target_": "os.system", "command": "true"}
    for node in (sgd(lr=evil), {"a": [{"b": evil}]}, {"a": {"b": (evil,)}}):
        with pytest.raises(UserError, match=r"'os\.system' is not on the list"):
            check(node, at="section")


def test_trust_adds_a_package_and_only_what_it_defines(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_package.py").write_text("import os\n\n\ndef twice(x: int) -> int:\n    return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    node = {"_target_": "my_package.twice", "x": 3}
    with pytest.raises(UserError, match=r"trust=\[my_package\]"):
        build(node, at="a")
    assert build(node, at="a", trust=["my_package"]) == 6
    with pytest.raises(UserError, match="not defined in `my_package`"):
        build({"_target_": "my_package.os.getcwd"}, at="a", trust=["my_package"])


@pytest.mark.parametrize(
    "node, message",
    [
        (sgd(momentun=0.9), r"`optimizer\.momentun`: SGD has no argument `momentun`\. Did you mean `momentum`\?"),
        (sgd(nesterov="yes"), r"`optimizer\.nesterov` must be true or false, got 'yes'"),
        ({"_target_": "bnn_lightning.distill.checkpoint_teacher"}, r"checkpoint_teacher needs `optimizer\.ckpt`"),
        ({"_target_": "bnn_lightning.callbacks.LatentClip", "limit": 0.0}, "`limit` must be positive, got 0"),
        ({"_target_": "bnn_lightning.models.create_backbone", "name": "mpl"}, "Unknown backbone `mpl`.*mlp"),
        ({"_target_": "bnn_lightning.optim.defaultgroups"}, "does not exist. Did you mean `default_groups`"),
        ({"_target_": "no_such_package.x"}, "not on the list"),
    ],
)
def test_says_what_is_wrong_and_where(node: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(node, at="optimizer")


def test_an_error_in_a_nested_node_says_where() -> None:
    factory = {"_target_": "bnn_lightning.binarizers.binarizer_factory", "name": "SignSTE", "clip": -1.0}
    model = {"_target_": "bnn_lightning.models.create_backbone", "name": "mlp", "num_classes": 2, "image_size": 4}
    with pytest.raises(UserError, match=r"`model\.input_binarizer`: `clip` must be positive, got -1\.0"):
        build({**model, "input_binarizer": factory}, at="model")


def test_null_leaves_one_out_of_a_section() -> None:
    nodes = {"a": {"_target_": "bnn_lightning.callbacks.LatentClip"}, "b": None}
    assert len(build_all(nodes, at="callbacks")) == 1
    assert build_all(None, at="callbacks") == []


@pytest.mark.parametrize("plugins", [None, []])
def test_no_option_makes_checkpoints_that_may_be_cut_off(plugins: Any) -> None:
    node = {"_target_": "pytorch_lightning.Trainer", "accelerator": "cpu", "logger": False, "plugins": plugins}
    trainer = build_trainer(node, callbacks=[], loggers=[])
    assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)


def test_what_lightning_refuses_is_the_users_to_mend() -> None:
    node = {"_target_": "pytorch_lightning.Trainer", "accelerator": "cpu", "devices": 0, "logger": False}
    with pytest.raises(UserError, match="`trainer`"):
        build_trainer(node, callbacks=[], loggers=[])
