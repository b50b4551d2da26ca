"""The `bnn` command: the first word is the verb, the others are the verb's options and keys."""

import importlib
import io
import sys
from collections.abc import Sequence
from typing import NamedTuple

import bnn_lightning
from bnn_lightning.cli.errors import EXIT_CODE
from bnn_lightning.workflows import old_names
from bnn_lightning.workflows.errors import did_you_mean


class Verb(NamedTuple):
    """A verb of `bnn`.

    Attributes:
        summary: Line of the help.
        function: Function that runs it, as module.name within `bnn_lightning.cli`.
        composes: Whether the function takes the configuration that is composed from `<verb>.yaml`. The others read
            the command line by themselves.
    """

    summary: str
    function: str
    composes: bool = True


VERBS = {
    "train": Verb("train a network (python train.py is the same)", "train.train"),
    "evaluate": Verb("score every test image with a checkpoint or a packed file", "jobs.evaluate"),
    "profile": Verb("count parameters, operations, bytes and energy of a network", "jobs.profile"),
    "prepare": Verb("shrink a folder of images once, or convert it to a stream", "jobs.prepare"),
    "export": Verb("write a checkpoint as one packed file, a bit a weight", "jobs.export"),
    "predict": Verb("classify images with a packed file or a checkpoint", "jobs.predict"),
    "verify": Verb("check every byte of a packed file", "jobs.verify"),
    "benchmark": Verb("measure latency and memory of a packed network beside other runtimes", "jobs.benchmark"),
    "report": Verb("write one HTML page of a run, which needs no internet", "jobs.report"),
    "rank": Verb("rank candidate teachers for a student, on held-out images", "jobs.rank"),
    "visualize": Verb("draw figures of networks and runs, and write their numbers", "visualize.main", composes=False),
    "zoo": Verb("list the trained networks that come with the package", "zoo.main", composes=False),
    "conf": Verb("list, show and copy the options of the configuration", "conf.main", composes=False),
}

HELP = """bnn: binary neural networks.

    bnn <verb> [options and keys]
    bnn <verb> --help

{verbs}

    bnn train                                           the embedded digits, in about a minute
    bnn train model=vgg_small data=cifar10              the published recipe of the pair, with its distillation
    bnn evaluate ckpt=runs/.../checkpoints/final.ckpt
    bnn profile model=resnet20 data=cifar10
    bnn predict packed=zoo:mnist_mlp images=digit.png   a network of the package

    eval "$(bnn -sc install=bash)"                      completion of verbs, groups, options and keys (zsh, fish)
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the verb that the command line names.

    Args:
        argv: The words after `bnn`; None takes those of the process.
    """
    given = sys.argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may be no text: it is printed with escapes
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.argv = [given[0], *(given[1:] if argv is None else argv)]
        _run(sys.argv[1:])
    finally:
        sys.argv = given


def _run(words: Sequence[str]) -> None:
    if not words or words[0] in ("--help", "-h", "help"):
        print(HELP.format(verbs="\n".join(f"    {verb:<11}{row.summary}" for verb, row in VERBS.items())), end="")
        return
    verb = words[0]
    if verb in ("-sc", "--shell-completion"):
        importlib.import_module("bnn_lightning.cli.completion").complete(words[1:], VERBS, run)
        return
    if verb in ("--version", "-V"):
        print(f"bnn-lightning {bnn_lightning.__version__}")
        return
    if verb in old_names.VERBS:
        print(f"`bnn {verb}` is now `bnn {old_names.VERBS[verb]}`.", file=sys.stderr)
        sys.argv[1] = verb = old_names.VERBS[verb]
    if verb not in VERBS:
        near = did_you_mean(verb, VERBS)
        if not near and ("=" in verb or verb.startswith("-")):
            near = f" The verb comes first: bnn train {verb}"
        print(f"error: unknown command `{verb}`.{near} There are: {', '.join(VERBS)}.", file=sys.stderr)
        raise SystemExit(EXIT_CODE)
    run(verb, prefix=(verb,))


def run(verb: str, prefix: Sequence[str] = ()) -> None:
    """Run a verb.

    Args:
        verb: A key of `VERBS`.
        prefix: Words of `sys.argv` before those of the verb: the verb itself, where it stands there.
    """
    # Imported late, so that one verb does not wait for the libraries of the others.
    module, name = VERBS[verb].function.split(".")
    function = getattr(importlib.import_module(f"bnn_lightning.cli.{module}"), name)
    if VERBS[verb].composes:
        importlib.import_module("bnn_lightning.cli.launch").launch(function, config_name=verb, prefix=prefix)
    else:
        function(prefix)


if __name__ == "__main__":
    main()
