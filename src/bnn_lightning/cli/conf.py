"""`bnn conf`: list, show and copy the options of the configuration."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from bnn_lightning.cli.config_paths import config_dir, list_options
from bnn_lightning.cli.errors import friendly
from bnn_lightning.cli.launch import launch
from bnn_lightning.cli.own_folder import refuse_clashes
from bnn_lightning.cli.published import recipe_of
from bnn_lightning.utils.files import replacing
from bnn_lightning.workflows.errors import UserError, did_you_mean, listed


def main(prefix: Sequence[str] = ()) -> None:
    """List, show or copy, as the command line says.

    Args:
        prefix: Words of `sys.argv` before our own: the verb.
    """
    program = [sys.argv[0], *prefix]
    given = _parser().parse_args(sys.argv[len(program) :])
    with friendly():
        own = _own_folder(given)
        roots = [config_dir(), *([own] if own is not None else [])]
        if given.verb == "ls":
            print(describe_options(roots, given.group), end="")
        elif given.verb == "cp":
            print(copy_option(roots, given.option, Path(given.folder or own or "conf")))
        elif len(given.words) == 1 and "=" not in given.words[0]:
            print(find_option(roots, given.words[0]).read_text(encoding="utf-8"), end="")
        else:
            folder = ["-cd", str(own)] if own is not None else []
            sys.argv = [*program, "show", *folder, *given.words, "--cfg", "job"]
            launch(_never, config_name="train", prefix=(*prefix, "show"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bnn conf", description="The options of the configuration.")
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("-cd", "--config-dir", dest="own", default=argparse.SUPPRESS, help="a folder of your own, too")
    parser.add_argument("-cd", "--config-dir", dest="own", help="a folder of your own, too")
    verbs = parser.add_subparsers(dest="verb", required=True)
    ls = verbs.add_parser("ls", parents=[own], help="list the groups and their options")
    ls.add_argument("group", nargs="?", help="one group only, such as model")
    text = "print one option (model/resnet20), or what `bnn train` would run (key=value)"
    show = verbs.add_parser("show", parents=[own], help=text)
    show.add_argument("words", nargs="*", metavar="option|override")
    cp = verbs.add_parser("cp", parents=[own], help="copy an option with its recipes, to change it")
    cp.add_argument("option", help="such as model/resnet20")
    cp.add_argument("folder", nargs="?", help="where to (default: the folder of -cd, or conf)")
    return parser


def _own_folder(given: argparse.Namespace) -> Path | None:
    if given.own is None:
        return None
    folder = Path(given.own)
    if not folder.is_dir():
        if given.verb == "cp":
            return folder
        raise UserError(f"`-cd {folder}`: there is no such folder.")
    refuse_clashes(folder)
    return folder


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
        groups.setdefault(folder.name, []).extend(_options(folder))
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
    """Copy the file of an option into a configuration tree of one's own; return what to do with it.

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
    copy = _mine(original.relative_to(root))
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

    pairs = {
        "model": [(recipe_of(name, data, read), f"my_{name}_{data}") for data in list_options("data", roots)],
        "data": [(recipe_of(model, name, read), f"{model}_my_{name}") for model in list_options("model", roots)],
    }
    found = {}
    for recipe, copy in pairs.get(group, []):
        for root in roots:
            if (root / "recipe" / f"{recipe}.yaml").is_file():
                # The copy states the recipe's settings of the network, where a user looks for them.
                network = OmegaConf.select(OmegaConf.load(root / "recipe" / f"{recipe}.yaml"), "model")
                text = OmegaConf.to_yaml({"model": network}) if network else ""
                head = f"# @package _global_\n# As {recipe}\ndefaults:\n  - {recipe}\n  - _self_\n"
                found[Path("recipe", f"{copy}.yaml")] = head + (f"\n{text}" if text else "")
    return found


def _mine(path: Path) -> Path:
    return path.with_name(f"my_{path.name}")


def _options(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.yaml") if not path.name.startswith("_"))


def _description(path: Path) -> str:
    for line in path.read_text().splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return line.lstrip("# ").strip()
    return ""


def _never(config: object) -> None:
    raise AssertionError("`--cfg job` prints the configuration and runs nothing.")
