"""The `bnn` command: the first word is the verb, what follows is the verb's own."""

import importlib
import io
import sys
from collections.abc import Sequence

import bnn_lightning
from bnn_lightning.cli.errors import EXIT_CODE
from bnn_lightning.workflows import old_names
from bnn_lightning.workflows.errors import did_you_mean

VERBS = {
    "train": "train a network (python train.py is the same)",
    "evaluate": "score every test image with a checkpoint",
    "profile": "count parameters, operations, bytes and energy of a network",
    "prepare": "shrink a folder of images once, or convert it to a stream",
    "export": "write a checkpoint as one packed file, a bit a weight",
    "predict": "the classes of images, by a packed file",
    "verify": "check every byte of a packed file",
    "benchmark": "latency and memory of a packed network beside its rivals",
    "report": "one HTML page of a run, which works without a network",
    "rank": "measure which teacher suits a student",
    "visualize": "pictures of networks and runs, and the numbers behind them",
    "zoo": "list the networks that come along",
    "conf": "list, show and copy the options of the configuration",
}

# Verbs with a module of their own; the others are jobs.
_OWN_MAIN = ("train", "visualize", "zoo", "conf")

HELP = """bnn: binary neural networks.

    bnn <verb> [options and keys]
    bnn <verb> --help

{verbs}

    bnn train                                           the embedded digits, in about a minute
    bnn train model=vgg_small data=cifar10              the published recipe of the pair, with its distillation
    bnn evaluate ckpt=runs/.../checkpoints/final.ckpt
    bnn profile model=resnet20 data=cifar10
    bnn predict packed=zoo:mnist_mlp images=digit.png   a network that comes along

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
        print(HELP.format(verbs="\n".join(f"    {verb:<11}{what}" for verb, what in VERBS.items())), end="")
        return
    verb = words[0]
    if verb in ("-sc", "--shell-completion"):
        importlib.import_module("bnn_lightning.cli.completion").complete(words[1:], VERBS)
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
        print(f"error: `{verb}` is no verb of bnn.{near} There are: {', '.join(VERBS)}.", file=sys.stderr)
        raise SystemExit(EXIT_CODE)
    run(verb)


def run(verb: str) -> None:
    """Run a verb with the words that follow it in `sys.argv`."""
    # Imported late, so that one verb does not wait for the libraries of the others.
    if verb in _OWN_MAIN:
        importlib.import_module(f"bnn_lightning.cli.{verb}").main(prefix=(verb,))
        return
    job = getattr(importlib.import_module("bnn_lightning.cli.jobs"), verb)
    importlib.import_module("bnn_lightning.cli.launch").launch(job, config_name=verb, prefix=(verb,))


if __name__ == "__main__":
    main()
