"""The command that runs, and the configuration folder of the user's own that it names (`-cd`)."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.utils import get_args_parser

from bnn_lightning.cli.config_paths import config_dir
from bnn_lightning.workflows.config_folder import refuse_clashes, refuse_old_names, targets_of


@dataclass(frozen=True)
class Running:
    """The command that is running.

    Attributes:
        verb: First word of `bnn`.
        arguments: Words after the verb.
        folder: Folder that `-cd` names.
        targets: Packages that its files name in `_target_`: see `targets_of`.
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
        refuse_clashes(folder, config_dir())
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
    """Return the packages that the running command trusts: those that files of its `-cd` folder name in `_target_`.

    Of libraries, such as torch, it is the targets that are named, and nothing else of them.
    """
    return [target for command in _running[-1:] for target in command.targets]
