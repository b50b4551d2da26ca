"""Options of configuration trees, which are YAML files in folders: list, find and copy them."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from bnn_lightning.utils.files import replacing
from bnn_lightning.workflows.errors import UserError, did_you_mean, listed

# The section of the network in a file of a recipe, as it is written there.
_NETWORK = re.compile(r"^model:.*\n(?:[ \t].*\n|\n)*", re.MULTILINE)
_KEY = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?P<value>[^#]*?)(?:\s+#\s*(?P<comment>.*))?$")


def option_files(folder: Path) -> list[Path]:
    """Return the files of a group's options, from its folder; names with `_` in front are not options."""
    return sorted(path for path in folder.glob("*.yaml") if not path.name.startswith("_"))


def label_of(section: Any) -> str:
    """Return the label of a section that is built: its `name`, or the last part of its `_target_`.

    Args:
        section: A mapping, or a node of OmegaConf.

    Example:
        >>> label_of({"_target_": "my_bnn.tiny", "width": 16})
        'tiny'
    """
    return str(section.get("name") or str(section.get("_target_", "")).rpartition(".")[2])


def recipe_of(model: str, data: str, read: Callable[[str], dict[str, Any] | None]) -> str:
    """Return the name of the recipe of a pair, which may be that of another pair (`recipe/_shared.yaml`).

    Args:
        model: Option of `model`.
        data: Option of `data`.
        read: Returns a file of the tree by its path without an ending; None for one that does not exist.
    """
    if read(f"recipe/{model}_{data}") is not None:
        return f"{model}_{data}"
    shared = read("recipe/_shared") or {}
    pair = f"{shared['model'].get(model, model)}_{shared['data'].get(data, data)}" if shared else f"{model}_{data}"
    name = shared.get("pair", {}).get(pair, pair)
    return str(name) if read(f"recipe/{name}") is not None else f"{model}_{data}"


def describe_options(roots: Sequence[Path], group: str | None = None) -> str:
    """Return the groups of configuration trees with their options, each with the first comment of its file.

    Args:
        roots: Folders of the trees, ours first.
        group: One group only.

    Raises:
        UserError: No such group.
    """
    groups: dict[str, list[Path]] = {}
    for folder in sorted((f for root in roots if root.is_dir() for f in root.iterdir() if f.is_dir()), key=_name):
        groups.setdefault(folder.name, []).extend(option_files(folder))
    groups = {name: sorted(options, key=_name) for name, options in groups.items() if options}
    if group is not None and group not in groups:
        raise UserError(f"`{group}`: no such group.{did_you_mean(group, groups)} There are: {listed(groups)}.")
    lines = []
    for name in [group] if group else groups:
        width = max(len(path.stem) for path in groups[name]) + 2
        lines += [name, *(f"    {path.stem:<{width}}{_description(path)}".rstrip() for path in groups[name]), ""]
    return "\n".join(lines)


def _name(path: Path) -> str:
    return path.name


def find_option(roots: Sequence[Path], option: str) -> Path:
    """Return the file of an option such as `model/resnet20`.

    Args:
        roots: Folders of configuration trees, ours first.
        option: Its group and name.

    Raises:
        UserError: No such option.
    """
    for root in roots:
        path = root / f"{option.removesuffix('.yaml')}.yaml"
        if path.is_file() and path.resolve().is_relative_to(root.resolve()):
            return path
    files = [p.relative_to(root) for root in roots for p in root.rglob("*.yaml") if not p.name.startswith("_")]
    known = [file.with_suffix("").as_posix() for file in files]
    group = option.partition("/")[0]
    near = [name for name in known if name.startswith(f"{group}/")] or sorted({k.partition("/")[0] for k in known})
    raise UserError(f"`{option}`: no such option.{did_you_mean(option, known)} There are: {listed(near)}.")


def copy_option(roots: Sequence[Path], option: str, folder: Path) -> str:
    """Copy the file of an option into a configuration tree of the user's own; return the next step.

    The copy is called `my_...`: where two trees have an option of one name, Hydra takes ours. Recipes are named after
    pairs of a model and data: a copy of one of these gets recipes that extend those of the original.

    Args:
        roots: Folders of configuration trees, ours first.
        option: Its group and name.
        folder: Folder of the copy's tree.

    Raises:
        UserError: No such option, or the copy exists already or cannot be written.
    """
    original = find_option(roots, option)
    root = next(root for root in roots if original.is_relative_to(root))
    copy = original.relative_to(root).with_name(f"my_{original.name}")
    contents = {copy: original.read_text(encoding="utf-8")} | _recipes(roots, copy.parent.as_posix(), original.stem)
    for target in contents:
        if (folder / target).exists():
            raise UserError(f"`{folder / target}` exists already: remove it, or name another folder.")
    for target, content in contents.items():
        try:
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            with replacing(folder / target) as temporary:
                temporary.write_text(content, encoding="utf-8")
        except OSError as error:
            raise UserError(f"`{folder / target}` cannot be written: {error.strerror or error}.") from error
    files = "\n".join(str(folder / target) for target in contents)
    choose = f" {copy.parent.as_posix()}={copy.stem}" if copy.parent.name else ""
    return f"{files}\nChange it, then: bnn train -cd {folder}{choose}"


def _recipes(roots: Sequence[Path], group: str, name: str) -> dict[Path, str]:
    """Return files of recipes for the copy of a model or of data, which extend those of the original."""

    def read(path: str) -> dict[str, Any] | None:
        files = (root / f"{path}.yaml" for root in roots)
        return next((yaml.safe_load(file.read_text(encoding="utf-8")) or {} for file in files if file.is_file()), None)

    def options(of: str) -> list[str]:
        return sorted({path.stem for root in roots for path in option_files(root / of)})

    pairs = {
        "model": [(recipe_of(name, data, read), f"my_{name}_{data}") for data in options("data")],
        "data": [(recipe_of(model, name, read), f"{model}_my_{name}") for model in options("model")],
    }
    recipes = {}
    for recipe, copy in pairs.get(group, []):
        for root in roots:
            if (file := root / "recipe" / f"{recipe}.yaml").is_file():
                # The copy states the recipe's settings of the network, where a user looks for them.
                network = _NETWORK.search(file.read_text(encoding="utf-8"))
                head = f"# @package _global_\n# As {recipe}\ndefaults:\n  - {recipe}\n  - _self_\n"
                recipes[Path("recipe", f"{copy}.yaml")] = head + (f"\n{network[0]}" if network else "")
    return recipes


def _description(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return line.lstrip("# ").strip()
    return ""


def describe_keys(root: Path, config_name: str) -> str:
    """Return a line for each key of a primary configuration: name, default and description.

    Args:
        root: Folder of our tree.
        config_name: Name of the file, such as `evaluate` or `visualize/landscape`.
    """
    rows = [(f"{key}={value}", comment) for key, value, comment in keys_of(root, config_name)]
    width = min(max((len(key) for key, _ in rows), default=0), 40) + 2
    lines = "".join(f"    {key:<{width}}{comment}".rstrip() + "\n" for key, comment in rows)
    return f"== Keys of `bnn {config_name.replace('/', ' ')}` ==\n\n{lines}\n"


def keys_of(root: Path, config_name: str) -> Iterator[tuple[str, str, str]]:
    """Yield key, default and comment of each value in a primary configuration, and in the sections that it writes."""
    section = ""
    for line in (root / f"{config_name}.yaml").read_text(encoding="utf-8").splitlines():
        found = _KEY.match(line)
        if found is None:
            continue
        key, value = found["key"], found["value"].strip()
        if not found["indent"]:
            section = key
        if section in ("defaults", "hydra") or key.startswith("_") or (not found["indent"] and value in ("", "{}")):
            continue
        name = f"{section}.{key}" if found["indent"] else key
        yield name, value, found["comment"] or ""
