"""Recipes of the configuration tree, and the resolver that takes options of the published ones."""

from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from bnn_lightning.workflows.config_options import recipe_of
from bnn_lightning.workflows.old_names import new_key

Recipe = dict[str, Any]


def register() -> None:
    """Register the resolvers `${published:group,${model},${data}}` and `${recipe:...}` of defaults lists."""
    OmegaConf.register_new_resolver("published", _choose, replace=True)
    OmegaConf.register_new_resolver("recipe", lambda m, d: recipe_of(str(m), str(d), read_file), replace=True)


def read_recipe(name: str) -> Recipe | None:
    """Return the content of a recipe, with that of the recipes that it extends; None where there is none.

    Args:
        name: Option of the group `recipe`.
    """
    found = read_file(f"recipe/{name}")
    if found is None:
        return None
    bases = [base for base in found.pop("defaults", []) if isinstance(base, str) and base != "_self_"]
    merged = OmegaConf.to_container(OmegaConf.merge(*(read_recipe(base) or {} for base in bases), found))
    return {str(key): value for key, value in merged.items()} if isinstance(merged, dict) else {}


def published_facts(name: str) -> Recipe:
    """Return the facts of the published training in a recipe (its section `published`), or nothing."""
    return (read_recipe(name) or {}).get("published") or {}


def options_of(facts: Recipe) -> Sequence[tuple[str, str]]:
    """Return the groups in which a published training takes an option, and the options.

    Raises:
        ValueError: A group that was renamed.
    """
    chosen = facts.get("choose") or {}
    for group in chosen:
        if (new := new_key(group)) is not None:
            raise ValueError(f"`published.choose`: the group `{group}` is called `{new}` now.")
    return list(chosen.items())


def stages(name: str) -> Iterator[str]:
    """Yield a recipe and those of the stages that follow it."""
    following: str | None = name
    while following is not None:
        yield following
        following = published_facts(following).get("next")


def own_optimizer(model: str) -> str | None:
    """Return the optimizer that the file of a model names, or else the one of `train.yaml`.

    Args:
        model: Option of the group `model`.
    """
    return _named_optimizer(f"model/{model}") or _entry(_defaults("train"), "optimizer")


def _choose(group: str, model: Any, data: Any, default: str = "none", *, _root_: DictConfig) -> str:
    """Return the option of a group that the recipe of a pair takes.

    Args:
        group: Config group; "recipe" stands for the recipe of the pair's last stage.
        model: Option of `model`.
        data: Option of `data`.
        default: Option where the recipe takes none.
    """
    recipe = _root_.get("recipe") or recipe_of(str(model), str(data), read_file)
    if group == "recipe":
        return list(stages(recipe))[-1]
    return str(dict(options_of(published_facts(recipe))).get(group, default))


def _named_optimizer(path: str) -> str | None:
    defaults = _defaults(path)
    own = _entry(defaults, "override /optimizer@_global_.optimizer")
    if own is not None:
        return own
    bases = [base for base in defaults if isinstance(base, str) and base != "_self_"]
    places = (base[1:] if base.startswith("/") else f"model/{base}" for base in reversed(bases))
    return next((found for place in places if (found := _named_optimizer(place)) is not None), None)


def _entry(defaults: list[Any], key: str) -> str | None:
    return next((entry[key] for entry in defaults if isinstance(entry, dict) and key in entry), None)


def _defaults(path: str) -> list[Any]:
    return list((read_file(path) or {}).get("defaults") or [])


def read_file(path: str) -> Recipe | None:
    """Return a file of the tree, or of a folder beside it (`-cd`), as Hydra finds it."""
    for source in GlobalHydra.instance().config_loader().get_sources():
        if source.is_config(path):
            found = OmegaConf.to_container(source.load_config(path).config)
            return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}
    return None
