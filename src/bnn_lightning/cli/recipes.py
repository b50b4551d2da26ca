"""Recipe of a run: its check, and the lines that announce it."""

from collections.abc import Iterator, Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from bnn_lightning.cli.config_paths import list_options
from bnn_lightning.cli.launch import config_folders, refuse_missing_options
from bnn_lightning.cli.published import Recipe, options_of, own_optimizer, published_facts, read_recipe
from bnn_lightning.cli.schema import plain_values
from bnn_lightning.cli.summary import command, kept_overrides
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.messages import say

# Groups that are mounted elsewhere than under their own name.
MOUNTED = {"auto_augment": "auto_augment@data.auto_augment"}


def announce_recipe(config: DictConfig) -> None:
    """Announce the recipe of a run, its published accuracy, and the keys that leave it out.

    Args:
        config: As composed by Hydra from `train.yaml`.

    Raises:
        UserError: A recipe that was asked for and does not exist, or settings for another optimizer.
    """
    if not HydraConfig.initialized():
        return
    refuse_missing_options()
    name = str(HydraConfig.get().runtime.choices.get("recipe"))
    recipe = read_recipe(name)
    if recipe is None:
        if name in list_options("recipe", config_folders()):  # Hydra does not tell resolvers of `hydra.searchpath`
            raise UserError(f"`recipe={name}` lies in a folder of hydra.searchpath: give the folder as -cd FOLDER.")
        say(f"No recipe for {name}: epochs, learning rate and augmentation are defaults.")
        return
    if not recipe:  # recipe=none
        return
    _check_optimizer(config, name, recipe)
    scaled = scale_warmup(config, recipe)
    first, *rest = recipe_lines(name, recipe, config, HydraConfig.get().runtime.choices)
    for line in (first + scaled, *rest):
        say(line)


def scale_warmup(config: DictConfig, recipe: Recipe) -> str:
    """Shorten the recipe's warm-up in proportion where the user asks for fewer epochs and no warm-up; say so."""
    given = {override.lstrip("+").partition("=")[0] for override in HydraConfig.get().overrides.task}
    epochs, warmup = recipe.get("epochs"), recipe.get("warmup_epochs")
    if "epochs" not in given or "warmup_epochs" in given or not isinstance(epochs, int) or not isinstance(warmup, int):
        return ""
    if config.epochs >= epochs or warmup == 0 or config.warmup_epochs != warmup:  # an experiment may have its own
        return ""
    config.warmup_epochs = min(round(warmup * config.epochs / epochs), config.epochs - 1)
    return f"; for epochs={config.epochs} its warm-up is scaled to warmup_epochs={config.warmup_epochs}"


def recipe_lines(name: str, recipe: Recipe, config: DictConfig, choices: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that announce a recipe.

    Args:
        name: Option of the group `recipe`.
        recipe: Its content.
        config: The whole configuration.
        choices: By group, the option that the run takes.
    """
    facts = plain_values(config.published) if config.get("published") else {}
    options = [(MOUNTED.get(group, group), option) for group, option in options_of(facts)]
    taken = [f"{group}={option}" for group, option in options if choices.get(group) == option]
    passed_over = [f"{group}={option}" for group, option in options if choices.get(group) != option]
    own = dict(_flat(OmegaConf.to_container(config, resolve=False)))  # the recipe's interpolations stand in it as text
    for key, value in _flat({key: value for key, value in recipe.items() if key != "published"}):
        # Experiments and the command line win over the recipe.
        (taken if key in own and own[key] == value else passed_over).append(f"{key}={value}")
    sets = " ".join(taken) or "nothing"
    without = f"; without its {' '.join(passed_over)}" if passed_over else ""
    yield f"Recipe {name}{_accuracy(facts)} sets {sets}{without}"
    if any(group == "distill" for group, _ in options) and choices.get("distill") != "none":
        yield "Without distillation, with labels alone: distill=none. Without any of the recipe: recipe=none."
    sizes = {f"model.{key}": value for key, value in (facts.get("model") or {}).items()}
    other = [f"{key}={OmegaConf.select(config, key)}" for key in sizes if OmegaConf.select(config, key) != sizes[key]]
    if other:
        published = " ".join(f"{key}={value}" for key, value in sizes.items())
        yield f"The published network has {published}. A recipe leaves the size as it is: {' '.join(other)}."
    if facts.get("next"):
        yield f"This is not the last stage. The next one: {_next_command(facts['next'], config, choices)}"


def _accuracy(facts: Recipe) -> str:
    if "top1" not in facts:
        return ""
    reached = "no accuracy is published" if facts["top1"] is None else f"published: {facts['top1']} % top-1"
    note = f"; {facts['note']}" if facts.get("note") else ""
    return f" ({reached}{note})"


def _next_command(recipe: str, config: DictConfig, choices: Mapping[str, Any]) -> str:
    needs = published_facts(recipe).get("needs") or ["init_from"]
    if choices.get("distill") == "none":
        needs = [key for key in needs if not key.startswith("distill.")]
    chosen = {"model": choices.get("model"), "data": choices.get("data"), "recipe": recipe}
    kept = kept_overrides(*chosen, "experiment", "ckpt_path", "init_from", *needs)
    folder = config.paths.run_dir
    return command("train", *(f"{k}={v}" for k, v in chosen.items()), *kept, *(f"{key}={folder}" for key in needs))


def _check_optimizer(config: DictConfig, name: str, recipe: Recipe) -> None:
    """Refuse another optimizer than the recipe's with the recipe's settings, such as Adam with SGD's learning rate."""
    hydra = HydraConfig.get()
    choice = hydra.runtime.choices.get("optimizer")
    if choice == own_optimizer(str(hydra.runtime.choices.get("model"))):
        return
    given = {override.lstrip("+").partition("=")[0] for override in hydra.overrides.task}
    kept = [
        f"optimizer.{key}={value}"
        for key, value in (recipe.get("optimizer") or {}).items()
        if f"optimizer.{key}" not in given and OmegaConf.select(config, f"optimizer.{key}") == value
    ]
    if kept:
        raise UserError(
            f"`optimizer={choice}`: the recipe {name} sets {' '.join(kept)} for another optimizer. Give "
            f"{', '.join(text.partition('=')[0] + '=...' for text in kept)}, or leave the recipe out: recipe=none."
        )


def _flat(node: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key != "_target_":
                yield from _flat(value, f"{at}.{key}" if at else str(key))
    else:
        yield at, node
