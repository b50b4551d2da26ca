"""Shell completion of `bnn`: verbs by ourselves, groups, options and keys by Hydra."""

import os
import sys
from collections.abc import Callable, Iterable, Sequence

from bnn_lightning.cli.config_paths import config_dir, list_options
from bnn_lightning.cli.errors import EXIT_CODE
from bnn_lightning.workflows.figure_kinds import KINDS

FLAGS = ("-sc", "--shell-completion")
_LINE = "COMP_LINE"  # what the shell's script passes on: the command line up to the cursor


Run = Callable[[str], None]


def complete(request: Sequence[str], verbs: Iterable[str], run: Run) -> None:
    """Answer a request of the shell, or print the script that installs or removes the completion.

    Args:
        request: `install=<shell>`, `uninstall=<shell>` or `query=<shell>`; shells are bash, zsh and fish.
        verbs: Those of `bnn`.
        run: Runs a verb whose words are those of `sys.argv`.
    """
    action, _, shell = (request[0] if request else "").partition("=")
    if len(request) != 1 or action not in ("install", "uninstall", "query") or not shell:
        print(
            "error: -sc takes one of install=bash, uninstall=bash and query=bash (or zsh, fish), as in "
            'eval "$(bnn -sc install=bash)".',
            file=sys.stderr,
        )
        raise SystemExit(EXIT_CODE)
    if action != "query":
        _hydra(run, request[0], "train")
        return
    program, *words = (line := os.environ.get(_LINE, "bnn ")).split()
    is_new = line.endswith(" ")
    if not words or (len(words) == 1 and not is_new):
        _answer(shell, verbs, words[0] if words else "")
    elif words[0] == "conf":
        _answer(shell, _words_of_conf(words[1:], is_new=is_new), "" if is_new else words[-1])
    elif words[0] == "visualize":
        _complete_figure(run, request[0], shell, program, words[1:], is_new=is_new)
    elif words[0] in verbs and words[0] != "zoo":  # which takes no words
        os.environ[_LINE] = " ".join([program, *words[1:]]) + " " * is_new
        _hydra(run, request[0], words[0])


def _hydra(run: Run, request: str, verb: str, *words: str) -> None:
    # Hydra's script for the shell names the program; without the verb, which it takes for an override.
    sys.argv = [sys.argv[0], *words, FLAGS[0], request]
    run(verb)


def _complete_figure(run: Run, request: str, shell: str, program: str, words: list[str], *, is_new: bool) -> None:
    names = {word.partition("=")[0]: word for word in words[: len(words) if is_new else -1]}
    what = next((name for name in names if name in KINDS), None)
    if what is None:
        _answer(shell, [f"{kind}=" for kind in KINDS], "" if is_new or not words else words[-1])
        return
    rest = [word for word in words if word != what]
    os.environ[_LINE] = " ".join([program, *rest]) + " " * is_new
    _hydra(run, request, "visualize", what)


def _words_of_conf(words: list[str], *, is_new: bool) -> list[str]:
    if not words or (len(words) == 1 and not is_new):
        return ["ls", "show", "cp"]
    groups = [folder.name for folder in sorted(config_dir().iterdir()) if folder.is_dir() and list_options(folder.name)]
    if words[0] == "ls":
        return groups
    return [f"{group}/{option}" for group in groups for option in list_options(group)]


def _answer(shell: str, candidates: Iterable[str], start: str) -> None:
    print(("\n" if shell == "fish" else " ").join(word for word in candidates if word.startswith(start)))
