"""`model=` and `data=` alone compose to the published training of the pair, and every explicit choice wins over it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from bnn_lightning.cli.config_paths import config_dir, list_options
from bnn_lightning.cli.published import own_optimizer, read_file, read_recipe
from bnn_lightning.cli.recipes import recipe_lines
from bnn_lightning.cli.train import compose_training
from bnn_lightning.workflows.building import check_sections
from bnn_lightning.workflows.config_options import recipe_of

Composed = Callable[..., dict[str, Any]]

DIGITS, CIFAR, IMAGENET = ("mnist",), ("cifar10",), ("imagenet", "imagenet_stream")
EFFICIENT_B0, EFFICIENT_B2, EFFICIENT_B4 = "efficientnet_b0", "efficientnet_b2", "efficientnet_b4"
# Model, data: distiller, its teachers, auto_augment, schedule, optimizer, `binary`, published top-1, next stage.
TABLE: dict[tuple[str, tuple[str, ...]], tuple[Any, ...]] = {
    ("mlp", DIGITS): ("SelfKD", [], None, "warmup_cosine", "Adam", True, 98.78, None),
    ("resnet20", CIFAR): ("SelfKD", [], None, "warmup_cosine", "SGD", True, 87.2, None),
    ("resnet18", CIFAR): ("SelfKD", [], None, "warmup_cosine", "SGD", True, 93.0, None),
    ("vgg_small", CIFAR): ("SelfKD", [], None, "warmup_cosine", "SGD", True, 91.4, None),
    ("resnet20_adabin", CIFAR): ("HardLabels", [], None, "warmup_cosine", "SGD", True, 88.2, None),
    ("resnet18_adabin", CIFAR): ("HardLabels", [], None, "warmup_cosine", "SGD", True, 93.1, None),
    ("vgg_small_adabin", CIFAR): ("HardLabels", [], None, "warmup_cosine", "SGD", True, 92.3, None),
    ("bnext", (*CIFAR, "cifar100")): ("HardLabels", [], None, "warmup_cosine", "AdamW", True, None, None),
    ("bnext_tiny", (*CIFAR, "cifar100")): ("HardLabels", [], None, "warmup_cosine", "AdamW", True, None, None),
    ("bnext18", CIFAR): ("HardLabels", [], None, "warmup_cosine", "AdamW", True, 93.6, None),
    ("bnext18", ("cifar100",)): ("HardLabels", [], None, "warmup_cosine", "AdamW", True, None, None),
    **{
        (model, IMAGENET): ("GapEnsemble", teachers, "RandAugment", "warmup_cosine", "AdamW", True, top1, None)
        for model, teachers, top1 in (
            ("bnext", [EFFICIENT_B2, EFFICIENT_B0], 72.4),
            ("bnext_tiny", [EFFICIENT_B2, EFFICIENT_B0], 72.4),
            ("bnext_small", [EFFICIENT_B2, EFFICIENT_B0], 76.1),
            ("bnext_middle", [EFFICIENT_B4, EFFICIENT_B0, EFFICIENT_B2], 78.3),
            ("bnext_large", ["convnext_tiny", EFFICIENT_B0, EFFICIENT_B4], 80.57),
            ("bnext18", [EFFICIENT_B2, EFFICIENT_B0], 68.4),
        )
    },
    **{
        (model, IMAGENET): ("HardLabels", [], None, "warmup_cosine", "Adam", True, top1, None)
        for model, top1 in (
            ("quicknet", 63.3),
            ("binarydensenet", 60.91),
            ("binary_alexnet", 36.3),
            ("binary_resnet_e18", 58.32),
        )
    },
    ("birealnet18", IMAGENET): ("HardLabels", [], None, "linear", "Adam", True, None, None),
    ("reactnet_a", IMAGENET): ("TeacherKD", ["resnet34"], None, "linear", "Adam", "activations", 70.1, "step2"),
    ("reactnet18", IMAGENET): ("TeacherKD", ["resnet34"], None, "linear", "Adam", "activations", None, "step2"),
    ("real2binary18", IMAGENET): ("TeacherKD", ["resnet18"], None, "warmup_cosine", "Adam", False, 71.2, "step2"),
    ("resnet18_double_skip", IMAGENET): ("SelfKD", [], None, "warmup_cosine", "SGD", True, 59.5, "stage2"),
}
PAIRS = {(model, data): row for (model, sets), row in TABLE.items() for data in sets}
SIZE = ("width", "depths", "dropout")
# Ends of the names of recipes that a pair does not take by itself: later stages.
LATER = ("_step2", "_step3", "_stage2")


def words_of(model: str, data: str) -> list[str]:
    return [f"model={model}", f"data={data}"]


def teachers(distill: dict[str, Any]) -> list[str]:
    mounted = [distill.get("teacher"), distill.get("main"), *(distill.get("assistants") or {}).values()]
    return [node["network"]["name"] for node in mounted if node is not None]


def name_of(node: dict[str, Any] | None) -> str | None:
    return None if node is None else node["_target_"].rpartition(".")[2]


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_a_pair_takes_its_published_recipe(pair: tuple[str, str], composed: Composed) -> None:
    distiller, networks, augment, schedule, optimizer, binary, top1, following = PAIRS[pair]
    config = composed(*words_of(*pair), "trainer.devices=8")
    check_sections(config)
    assert (name_of(config["distill"]), teachers(config["distill"])) == (distiller, networks)
    assert name_of(config["data"].get("auto_augment")) == augment
    assert (name_of(config["lr_scheduler"]), name_of(config["optimizer"])) == (schedule, optimizer)
    assert (config["model"]["binary"], config["trainer"]["precision"]) == (binary, "32-true")
    assert config["published"]["top1"] == top1
    assert (config["published"].get("next") or "").rpartition("_")[2] == (following or "")
    without = composed(*words_of(*pair), "recipe=none")
    for key in SIZE:
        assert config["model"].get(key) == without["model"].get(key), key


@pytest.mark.parametrize("model", [model for model in list_options("model") if model.startswith("bnext")])
def test_teachers_of_bnext_run_in_half_precision(model: str, composed: Composed) -> None:
    distill = composed(*words_of(model, "imagenet"))["distill"]
    nodes = [distill["main"], *(node for node in distill["assistants"].values() if node is not None)]
    assert {node["dtype"] for node in nodes} == {"float16"}


def test_every_recipe_that_says_what_is_published_stands_in_the_table(composed: Composed) -> None:
    recipes = {}
    for name in list_options("recipe"):
        content = yaml.safe_load((config_dir() / "recipe" / f"{name}.yaml").read_text(encoding="utf-8"))
        if "published" in content or "defaults" in content:
            recipes[name] = content
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        first = {recipe_of(*pair, read_file) for pair in PAIRS}
    assert {name for name in recipes if not name.endswith(LATER)} == first


@pytest.mark.parametrize("pair", [("bnext18", "cifar10"), ("bnext", "imagenet"), ("resnet20", "cifar10")], ids="-".join)
def test_a_recipe_alone_is_taken_whole(pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr("bnn_lightning.cli.recipes.say", lines.append)
    compose_training(*words_of(*pair))
    assert lines[0].startswith("Recipe ")
    assert "without its" not in lines[0]


@pytest.mark.parametrize("pair", [("bnext", "imagenet"), ("reactnet_a", "imagenet"), ("mlp", "mnist")], ids="-".join)
def test_without_a_recipe_nothing_of_it_is_taken(pair: tuple[str, str], composed: Composed) -> None:
    config = composed(*words_of(*pair), "recipe=none")
    assert (name_of(config["distill"]), name_of(config["lr_scheduler"])) == ("HardLabels", "warmup_cosine")
    assert (config["data"]["auto_augment"], config["published"], config["model"]["binary"]) == (None, None, True)
    assert config["epochs"] == composed("model=mlp", "data=synthetic")["epochs"]


def test_explicit_choices_win(composed: Composed) -> None:
    pair = words_of("bnext", "imagenet")
    labels = composed(*pair, "distill=none")
    assert (name_of(labels["distill"]), name_of(labels["data"]["auto_augment"])) == ("HardLabels", "RandAugment")
    assert labels["optimizer"] == composed(*pair)["optimizer"]
    other = composed(*pair, "auto_augment@data.auto_augment=trivial", "lr_scheduler=constant", "optimizer=sgd")
    assert name_of(other["data"]["auto_augment"]) == "TrivialAugmentWide"
    assert (name_of(other["lr_scheduler"]), name_of(other["optimizer"])) == ("constant", "SGD")
    assert composed(*pair, "auto_augment@data.auto_augment=none")["data"]["auto_augment"] is None
    assert teachers(composed(*pair, "distill.main.network.name=resnet50")["distill"])[0] == "resnet50"
    assert composed(*pair, "epochs=3", "model.width=8")["model"]["width"] == 8


def test_experiments_win(composed: Composed) -> None:
    config = composed("experiment=mnist_mlp_skd_cpu")
    assert (config["distill"]["cluster_on"], config["model"]["width"]) == ("penultimate", 1536)
    last = composed("experiment=imagenet_reactnet_a", "data=imagenet_stream")
    assert (last["init_from"], last["model"]["binary"], last["published"]["top1"]) == ("required", True, 69.4)
    assert name_of(composed("model=bnext_tiny", "data=imagenet", "distill=none")["distill"]) == "HardLabels"


def test_a_recipe_that_is_named_brings_its_options(composed: Composed) -> None:
    config = composed(*words_of("resnet20", "cifar100"), "recipe=resnet20_cifar10")
    assert (name_of(config["distill"]), config["epochs"]) == ("SelfKD", 700)


def test_evaluation_takes_the_recipe_of_the_last_stage(composed: Composed) -> None:
    for model in ("reactnet_a", "real2binary18", "bnext"):
        config = composed("ckpt=x", *words_of(model, "imagenet"), primary="evaluate")
        assert config["model"]["binary"] is True


@pytest.mark.parametrize("model", list_options("model"))
def test_a_model_names_its_optimizer(model: str, composed: Composed) -> None:
    expected = name_of(composed(f"model={model}", "recipe=none")["optimizer"])
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        found = own_optimizer(model)
        assert found is not None
        assert name_of(OmegaConf.to_container(compose(f"optimizer/{found}")["optimizer"])) == expected  # type: ignore[arg-type]


def test_a_model_of_ones_own_may_name_its_optimizer_or_none(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "plain.yaml").write_text("_target_: my_bnn.tiny\nname: plain\n")
    lines = ["defaults:", "  - plain", "  - override /optimizer@_global_.optimizer: adamw"]
    (tmp_path / "model" / "names.yaml").write_text("\n".join(lines) + "\n")
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        search = f"hydra.searchpath=[file://{tmp_path}]"
        for words, optimizer in (
            (["model=plain"], "Adam"),
            (["model=names"], "AdamW"),
            (["model=names", "optimizer=sgd"], "SGD"),
        ):
            config = compose("train", [search, *words])
            assert name_of(OmegaConf.to_container(config.optimizer)) == optimizer  # type: ignore[arg-type]
        for primary in ("evaluate", "profile", "benchmark"):
            assert compose(primary, [search, "model=names"]).model.name == "plain"


def test_a_notebook_that_finds_the_package_composes() -> None:
    with initialize_config_module("bnn_lightning.conf", version_base="1.3"):
        config = compose("train", words_of("bnext", "imagenet"))
    assert config.distill.main.network.name == EFFICIENT_B2


def lines_of(config: DictConfig, recipe: str, **choices: str) -> list[str]:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return list(recipe_lines(recipe, read_recipe(recipe) or {}, config, choices))


def test_the_lines_say_what_is_taken_and_what_it_reaches() -> None:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        bnext, mlp, reactnet = (
            compose("train", words_of(*pair))
            for pair in (("bnext", "imagenet"), ("mlp", "mnist"), ("reactnet_a", "imagenet"))
        )
    rand = {"auto_augment@data.auto_augment": "rand"}
    first, second = lines_of(bnext, "bnext_tiny_imagenet", distill="bnext_tiny", **rand)
    for word in (
        "bnext_tiny_imagenet",
        "72.4",
        "distill=bnext_tiny",
        "auto_augment@data.auto_augment=rand",
        "epochs=512",
    ):
        assert word in first
    assert "distill=none" in second
    (only,) = lines_of(bnext, "bnext_tiny_imagenet", distill="none", **rand)
    assert "without its distill=bnext_tiny" in only
    *_, size = lines_of(mlp, "mlp_mnist", distill="skd_mlp")
    assert "model.width=6144" in size
    assert "model.width=2048" in size
    *_, following = lines_of(reactnet, "reactnet_a_imagenet", model="reactnet_a", data="imagenet", distill="reactnet")
    words = f"model=reactnet_a data=imagenet recipe=reactnet_a_imagenet_step2 init_from={reactnet.paths.run_dir}"
    assert following.endswith(words)
