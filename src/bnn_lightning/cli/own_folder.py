"""A configuration folder of the user's own (`-cd`): the packages that it names, and options that clash with ours."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf
from yaml import YAMLError

from bnn_lightning.cli.config_paths import config_dir
from bnn_lightning.workflows.allowed import is_library
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.old_names import new_key

# Groups whose files write into the whole configuration.
_GLOBAL = ("experiment", "recipe", "sweep", "debug")


@dataclass(frozen=True)
class Running:
    """The command that is running.

    Attributes:
        verb: First word of `bnn`.
        arguments: Words after the verb.
        folder: Folder that `-cd` names.
        targets: What its files name in `_target_`: see `targets_of`.
    """

    verb: str
    arguments: Sequence[str]
    folder: Path | None
    targets: Sequence[str]


_running: list[Running] = []


@contextmanager
def running(verb: str, arguments: Sequence[str]) -> Iterator[None]:
    """Note the command that runs. With `-cd`, packages of the working folder can be imported, after all others.

    Args:
        verb: First word of `bnn`.
        arguments: Words after the verb.

    Raises:
        UserError: The folder of `-cd` has options of the names of ours, or files that cannot be read.
    """
    parsed, _ = get_args_parser().parse_known_args(list(arguments))
    folder = None if parsed.config_dir is None else Path(parsed.config_dir)
    here = os.getcwd()
    added = folder is not None and here not in sys.path and "" not in sys.path
    if folder is not None:
        refuse_clashes(folder)
        refuse_old_names(folder)
    targets = [] if folder is None else targets_of(folder)
    _running.append(Running(verb, list(arguments), folder, targets))
    if added:
        sys.path.append(here)
    try:
        yield
    finally:
        _running.pop()
        if added and here in sys.path:
            sys.path.remove(here)


def running_command() -> Running | None:
    """Return the command that is running, or None in a program of the user's own."""
    return _running[-1] if _running else None


def own_folders() -> list[Path]:
    """Return the folder that `-cd` names, if there is one."""
    return [command.folder for command in _running[-1:] if command.folder is not None]


def own_targets() -> list[str]:
    """Return what the running command trusts: the packages that files of its `-cd` folder name in `_target_`.

    Of libraries, such as torch, it is the targets that are named, and nothing else of them.
    """
    return [target for command in _running[-1:] for target in command.targets]


def targets_of(folder: Path) -> list[str]:
    """Return the packages that the files of a folder name in `_target_`; of libraries, the targets themselves.

    Raises:
        UserError: A file is no YAML of keys and values.
    """
    named = [target for file in _files(folder) for target in _targets(_load(folder / file))]
    packages = [target.partition(".")[0] for target in named]
    trusted = [t if is_library(p) else p for t, p in zip(named, packages, strict=True) if p != "bnn_lightning"]
    return list(dict.fromkeys(trusted))


def refuse_clashes(folder: Path) -> None:
    """Refuse options of the folder that have the name of one of ours: Hydra would take ours without a word.

    A copy that does not differ from ours does no harm.

    Raises:
        UserError: Names the files.
    """
    root = config_dir()
    if folder.resolve() == root.resolve():
        return
    clashing = [
        f for f in _files(folder) if (root / f).is_file() and (root / f).read_bytes() != (folder / f).read_bytes()
    ]
    if clashing:
        names = ", ".join(f"`{folder / file}`" for file in clashing)
        first = clashing[0]
        raise UserError(
            f"{names}: we have an option of that name, and it would be taken instead. Rename the file, as in "
            f"{folder / first.with_name(f'my_{first.name}')}."
        )


def refuse_old_names(folder: Path) -> None:
    """Refuse groups and keys of the whole configuration that were renamed: Hydra would add them without a word.

    Raises:
        UserError: Names the file.
    """
    for file in _files(folder):
        content = _load(folder / file)
        entries = [key for entry in content.get("defaults") or [] if isinstance(entry, dict) for key in entry]
        names = [file.parent.as_posix(), *(key.rpartition(" ")[2].lstrip("/").partition("@")[0] for key in entries)]
        if file.parent.as_posix() in _GLOBAL:
            names += [*content, *(f"callbacks.{key}" for key in content.get("callbacks") or ())]
        for name in names:
            if (new := new_key(str(name))) is not None:
                raise UserError(f"`{folder / file}`: `{name}` is called `{new}` now.")


def _files(folder: Path) -> list[Path]:
    """Return the YAML files of a folder, relative to it; hidden ones, such as records of runs (`.hydra`), are none."""
    files = (path.relative_to(folder) for path in folder.rglob("*.yaml"))
    return sorted(file for file in files if not any(part.startswith(".") for part in file.parts))


def _load(path: Path) -> Any:
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        raise UserError(f"`{path}`{line}, cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise UserError(f"`{path}` must hold keys and values, and it holds a list.")
    return content


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)
