"""`bnn conf`: list, show and copy the options of the configuration."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bnn_lightning.cli.config_paths import config_dir
from bnn_lightning.cli.errors import friendly
from bnn_lightning.cli.launch import launch
from bnn_lightning.workflows.config_folder import refuse_clashes
from bnn_lightning.workflows.config_options import copy_option, describe_options, find_option
from bnn_lightning.workflows.errors import UserError


def main(prefix: Sequence[str]) -> None:
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
    refuse_clashes(folder, config_dir())
    return folder


def _never(config: object) -> None:
    raise AssertionError("`--cfg job` prints the configuration and runs nothing.")
