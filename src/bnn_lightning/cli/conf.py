"""`bnn conf`: list, show and copy the options of the configuration."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from bnn_lightning.cli.errors import UserError, did_you_mean, friendly, listed
from bnn_lightning.cli.launch import launch
from bnn_lightning.cli.tree import config_dir


def main(prefix: Sequence[str] = ()) -> None:
    """List, show or copy, as the command line says.

    Args:
        prefix: Words of `sys.argv` before our own: the verb.
    """
    program = [sys.argv[0], *prefix]
    parser = argparse.ArgumentParser(prog="bnn conf", description="The options of the configuration.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    ls = verbs.add_parser("ls", help="list the groups and their options")
    ls.add_argument("group", nargs="?", help="one group only, such as model")
    show = verbs.add_parser("show", help="print one option (model/resnet20), or what `bnn train` would run (key=value)")
    show.add_argument("words", nargs="*", metavar="option|override")
    cp = verbs.add_parser("cp", help="copy an option, to change it")
    cp.add_argument("option", help="such as model/resnet20")
    cp.add_argument("folder", nargs="?", default="conf", help="where to (default: conf)")
    given = parser.parse_args(sys.argv[len(program) :])
    with friendly():
        if given.verb == "ls":
            print(describe_options(config_dir(), given.group), end="")
        elif given.verb == "cp":
            print(copy_option(config_dir(), given.option, Path(given.folder)))
        elif len(given.words) == 1 and "=" not in given.words[0]:
            print(find_option(config_dir(), given.words[0]).read_text(), end="")
        else:
            sys.argv = [*program, "show", *given.words, "--cfg", "job"]
            launch(_never, config_name="train", prefix=(*prefix, "show"))


def describe_options(root: Path, group: str | None = None) -> str:
    """Return the groups below `root` with their options, each with the first comment of its file.

    Args:
        root: Folder of a configuration tree.
        group: One group only.

    Raises:
        UserError: No such group.
    """
    groups = {folder.name: _options(folder) for folder in sorted(root.iterdir()) if folder.is_dir()}
    groups = {name: options for name, options in groups.items() if options}
    if group is not None and group not in groups:
        raise UserError(f"`{group}`: no such group.{did_you_mean(group, groups)} There are: {listed(groups)}.")
    lines = []
    for name in [group] if group else groups:
        width = max(len(path.stem) for path in groups[name]) + 2
        lines += [name, *(f"    {path.stem:<{width}}{_description(path)}".rstrip() for path in groups[name]), ""]
    return "\n".join(lines)


def find_option(root: Path, option: str) -> Path:
    """Return the file of an option such as `model/resnet20`.

    Raises:
        UserError: No such option.
    """
    path = root / f"{option.removesuffix('.yaml')}.yaml"
    if path.is_file() and path.resolve().is_relative_to(root.resolve()):
        return path
    known = [str(p.relative_to(root).with_suffix("")) for p in root.rglob("*.yaml") if not p.name.startswith("_")]
    group = option.partition("/")[0]
    near = [name for name in known if name.startswith(f"{group}/")] or sorted({k.partition("/")[0] for k in known})
    raise UserError(f"`{option}`: no such option.{did_you_mean(option, known)} There are: {listed(near)}.")


def copy_option(root: Path, option: str, folder: Path) -> str:
    """Copy the file of an option into a configuration tree of one's own; return what to do with it.

    The copy is called `my_...`: where two trees have an option of one name, Hydra takes ours.

    Raises:
        UserError: No such option, or the copy exists already.
    """
    source = find_option(root, option).relative_to(root)
    copies = {source: _mine(source)}
    for target in copies.values():
        if (folder / target).exists():
            raise UserError(f"`{folder / target}` exists already: remove it, or name another folder.")
    for original, target in copies.items():
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / original, folder / target)
    files = "\n".join(str(folder / target) for target in copies.values())
    choose = f" {source.parent.as_posix()}={_mine(source).stem}" if source.parent.name else ""
    return f"{files}\nChange it, then: bnn train -cd {folder}{choose}"


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
