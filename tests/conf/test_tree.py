"""Every file of the tree composes, and fits what it names."""

import re
from collections.abc import Callable
from dataclasses import fields
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import yaml

from bnn_lightning.binarizers import InputBinarizer, WeightBinarizer, list_binarizers
from bnn_lightning.cli.config_paths import config_dir
from bnn_lightning.models import list_backbones
from bnn_lightning.workflows.arguments import NODE_KEYS, _signature
from bnn_lightning.workflows.building import _builder, _without_ours, check, check_sections, locate
from bnn_lightning.workflows.figure_kinds import KINDS
from bnn_lightning.workflows.settings import PrepareSettings, ReportSettings

Composed = Callable[..., dict[str, Any]]

ROOT = config_dir()
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.yaml"))
# Arguments that stand in no file: given by the code, or of no use.
NOT_LISTED = {
    "DigitsDataModule": {"download", "verify"},
    "SyntheticDataModule": {"download", "verify"},
    "FolderDataModule": {"epochs", "lighting", "resize_size", "train_sizes"},  # of ImageNet's recipes
    "warmup_cosine": {"steps_per_epoch", "optimizer"},
    "linear": {"steps_per_epoch", "optimizer"},
    "constant": {"steps_per_epoch", "optimizer"},
    "default_groups": {"model"},
    "Bop": {"params"},
    "CSVLogger": {"resume_step"},  # of the run
    "checkpoint_teacher": {"load"},
    "ClassificationTask": {
        *("backbone", "optimizer", "param_groups", "lr_scheduler", "distiller"),
        "label_smoothing",  # the distiller's
    },
}


def text(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def options(group: str) -> list[str]:
    found = (path for path in FILES if path.parent == Path(group))
    return [path.stem for path in found if not path.name.startswith("_")]


def binarizers(kind: type) -> list[str]:
    known = list_binarizers(kind)
    return [
        name for name in options("binarizer") if yaml.safe_load(text(Path(f"binarizer/{name}.yaml")))["name"] in known
    ]


def rows() -> list[list[str]]:
    """Return overrides that take every option of every group at least once: composing takes its time."""
    plain = [
        "model",
        "data",
        "distill",
        "optimizer",
        "param_groups",
        "lr_scheduler",
        "precision",
        "strategy",
        "debug",
        "paths",
    ]
    columns = [[f"{group}={name}" for name in options(group)] for group in plain]
    columns += [
        [f"binarizer@model.{where}_binarizer={name}" for name in binarizers(kind)]
        for where, kind in (("input", InputBinarizer), ("weight", WeightBinarizer))
    ]
    columns += [[f"callbacks=[default,{name}]" for name in options("callbacks") if name != "default"]]
    columns += [[f"logger=[{name}]" for name in options("logger")], ["trainer=default"]]
    return [[choice for choice in row if choice] for row in zip_longest(*columns)]


ROWS = rows() + [["data=mnist", f"augment@data.augment={name}"] for name in options("augment")]
ROWS += [[f"mix@task.mix={name}"] for name in options("mix")]
ROWS += [
    [f"data={data}", f"auto_augment@data.auto_augment={name}"]
    for data in ("imagenet", "cifar10")
    for name in options("auto_augment")
]
NAMED = {name: ["distill.teacher.network.name=resnet18"] for name in ("model", "timm", "torchvision")}
ROWS += [["distill=teacher", f"teacher@distill.teacher={name}", *NAMED.get(name, [])] for name in options("teacher")]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_every_option_composes_and_fits_its_constructors(row: list[str], composed: Composed) -> None:
    config = composed(*row, *(["data.num_classes=10"] if "data=folder" in row else []))  # counted, where there are some
    check_sections(config)
    data = _without_ours(config["data"], "data", locate(config["data"]["_target_"], at="data"))
    for node in nodes(config | {"data": data}):
        of_any_network = node["_target_"].endswith(".create_backbone") and "_partial_" in node  # teacher=model
        if node["_target_"].startswith("bnn_lightning.") and not of_any_network:
            assert_all_arguments_are_listed(node)  # so that no `+` is needed


def nodes(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, dict):
        own = [node] if "_target_" in node else []
        return own + [found for value in node.values() for found in nodes(value)]
    return [found for item in node for found in nodes(item)] if isinstance(node, list) else []


def assert_all_arguments_are_listed(node: dict[str, Any]) -> None:
    target = locate(node["_target_"], at="")
    function, given = _builder(target, {k: v for k, v in node.items() if k not in NODE_KEYS}, "")
    named = {
        p.name for p in _signature(function).parameters.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
    assert set(given) == named - NOT_LISTED.get(target.__name__, set()), node["_target_"]


@pytest.mark.parametrize("name", options("sweep"))
def test_every_sweep_composes(name: str, composed: Composed) -> None:
    if name == "optuna":
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra `sweep`")
    check_sections(composed(f"sweep={name}"))


# Recipes of several pairs, which name one of them, and those of other binarizers.
SHARED = {
    "bnext_cifar": ("bnext_tiny", "cifar100"),
    "few_bits_cifar10": ("resnet20", "cifar10"),
    "recu_cifar10": ("vgg_small", "cifar10"),
}


@pytest.mark.parametrize("name", options("recipe"))
def test_every_recipe_is_that_of_a_pair(name: str, composed: Composed) -> None:
    pairs = {f"{model}_{data}": (model, data) for model in options("model") for data in options("data")}
    pair = re.sub(r"_(step|stage)[23]$", "", name)  # a later stage
    model, data = (pairs | SHARED).get(pair, ("mlp", "digits"))
    assert pair in {*pairs, *SHARED, "none"}
    words = [] if name in pairs else [f"recipe={name}"]
    words += ["distill.teacher.ckpt=x"] if re.match(r"real2binary18_.*_step", name) else []
    config = composed(f"model={model}", f"data={data}", *words)
    check_sections(config)


def test_no_option_was_left_out() -> None:
    taken = {choice.strip("]").replace("[default,", "").replace("[", "") for row in ROWS for choice in row}
    taken = {re.sub(r"^(\w+)@[^=]*=", r"\1=", choice) for choice in taken}
    elsewhere = ("hydra", "recipe", "experiment", "sweep", "visualize")
    for path in FILES:
        group = path.parent.as_posix()
        if group == "." or group in elsewhere or path.name.startswith("_") or path.stem in ("default", "evaluate"):
            continue
        assert f"{group}={path.stem}" in taken


def test_a_published_file_is_scored_on_images_cut_as_the_recipe_says(composed: Composed) -> None:
    data = composed("ckpt=x", "model=bnext_small", "data=imagenet", primary="evaluate")["data"]
    assert (data["interpolation"], data["crop_ratio"]) == ("bicubic", 0.95)
    data = composed("ckpt=x", "model=bnext_small", "data=imagenet", "recipe=none", primary="evaluate")["data"]
    assert (data["interpolation"], data["crop_ratio"]) == ("bilinear", 0.875)


def test_evaluate_composes(composed: Composed) -> None:
    check(composed("ckpt=x", primary="evaluate")["trainer"], at="trainer")
    for data in options("data"):
        counted = ["data.num_classes=10"] if data == "folder" else []
        config = composed("ckpt=x", "model=resnet20", f"data={data}", *counted, primary="evaluate")
        check(config["model"], at="model")
        check(config["data"], at="data")
        assert config["model"]["num_classes"] == config["data"]["num_classes"]


def test_prepare_composes_and_lists_every_key(composed: Composed) -> None:
    config = composed("output=x", primary="prepare")
    assert set(config) - {"paths", "hydra"} == {field.name for field in fields(PrepareSettings)}


def test_report_composes_and_lists_every_key(composed: Composed) -> None:
    config = composed("run=x", primary="report")
    assert set(config) - {"paths", "hydra", "data", "trainer"} == {field.name for field in fields(ReportSettings)}
    check(config["trainer"], at="trainer")


def test_every_picture_has_a_configuration_that_begins_with_its_name() -> None:
    assert sorted(KINDS) == options("visualize")
    for name in KINDS:
        content = yaml.safe_load(text(Path(f"visualize/{name}.yaml")))
        assert list(content)[:2] == ["defaults", name]
        assert content["out"] == "visualize"


def test_every_backbone_and_binarizer_has_an_option(composed: Composed) -> None:
    files = {name: yaml.safe_load(text(Path(f"model/{name}.yaml"))) for name in options("model")}
    own = {name: content.get("name") for name, content in files.items() if "_target_" not in content}
    assert sorted(set(files) - set(own)) == ["timm", "torchvision"]
    own_sizes = {"quicknet_small", "quicknet_large", "binarydensenet37", "binarydensenet45"}  # model.name chooses them
    assert sorted({name for name in own.values() if name is not None} | own_sizes) == list_backbones()
    for name in own_sizes:
        check(
            composed(f"model={re.sub('_.*|[0-9]+', '', name)}", f"model.name={name}", "data=imagenet")["model"],
            at="model",
        )
    assert [name for name, backbone in own.items() if name != backbone] == ["binarydensenet", "bnext"]
    assert composed("model=bnext")["model"]["name"] == "bnext_tiny"
    names = {yaml.safe_load(text(Path(f"binarizer/{name}.yaml")))["name"] for name in options("binarizer")}
    assert names == set(list_binarizers(InputBinarizer)) | set(list_binarizers(WeightBinarizer))


def test_no_resolver_of_hydra_stands_in_the_tree() -> None:
    for path in FILES:
        assert "${hydra:" not in text(path), path
        assert path.parent.name == "hydra" or "${hydra" not in text(path), path


def test_self_stands_first_in_primary_configs_and_last_in_extensions() -> None:
    for path in FILES:
        content = yaml.safe_load(text(path)) or {}
        if content.get("defaults") and set(content) - {"defaults"}:
            primary = path.parent.as_posix() in (".", "visualize")
            entries = [entry for entry in content["defaults"] if not re.match(r"{'override |.*: None}", str(entry))]
            assert (content["defaults"][0] if primary else entries[-1]) == "_self_", path


def test_every_option_says_what_it_is() -> None:
    for path in FILES:
        if path.name.startswith("_") or path.parent.as_posix() == ".":
            continue
        first = next(line for line in text(path).splitlines() if not line.startswith("# @package"))
        assert re.match(r"# \S.{3,150}$", first), path


def test_experiments_are_flat() -> None:
    assert all(len(path.parts) == 2 for path in FILES if path.parts[0] == "experiment")


def test_no_value_is_an_empty_mapping() -> None:
    # Hydra adds no keys to a mapping that is there: the command line could not fill it, but it can replace null.
    found = [f"{path}: {key}" for path in FILES for key in empty_mappings(yaml.safe_load(text(path)) or {})]
    assert found == []


def empty_mappings(node: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the keys whose value is an empty mapping, but for groups, of which a command chooses an option."""
    found = []
    for key, value in node.items():
        if value == {} and not (ROOT / str(key)).is_dir():
            found.append(f"{prefix}{key}")
        elif isinstance(value, dict):
            found += empty_mappings(value, f"{prefix}{key}.")
    return found
