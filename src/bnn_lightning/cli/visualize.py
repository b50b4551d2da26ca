"""`bnn visualize <what>=...`: pictures, one module a kind; its configuration is `conf/visualize/<what>.yaml`."""

import importlib
import sys
from collections.abc import Sequence
from functools import partial

from omegaconf import DictConfig

from bnn_lightning.cli.errors import EXIT_CODE
from bnn_lightning.cli.launch import launch
from bnn_lightning.utils.optional import require
from bnn_lightning.workflows.errors import UserError, did_you_mean

# A module of this package each, with a function `draw(config) -> float | None`.
KINDS = {
    "training_curves": "how trainings went: loss, accuracy, learning rate, annealing, flipped signs, gradients",
    "comparison": "accuracy against operations, size or latency: published networks and runs of ours",
    "binarization": "how binary networks are: parameters, products, operations",
    "graph": "a block, a module or a network as a graph: SVG, TensorBoard, ONNX",
    "landscape": "the loss around trained networks: line, contour, surface, and how sharp it is",
    "modules": "convolution modules side by side",
    "feature_maps": "what binary layers see of an image: inputs and their signs",
    "embedding": "penultimate features in the plane, colored by class: t-SNE or UMAP",
    "soft_label_heatmap": "the soft-label bank of self-knowledge distillation as a heat map",
    "signs": "signs of weights and activations, layer by layer",
    "surrogates": "value and gradient of binarizers",
    "pipeline": "a backbone, a block of it, and the block's convolution module",
}

OLD_KINDS = {"procedure": "training_curves", "bank": "soft_label_heatmap"}

HELP = """bnn visualize: pictures of networks and runs.

    bnn visualize <what>=... [keys]
    bnn visualize <what> --help

{kinds}

Each writes its pictures to `out`, a folder or a file, and beside them the numbers that they show.
"""


def main(prefix: Sequence[str] = ()) -> None:
    """Draw what the first key of the command line names.

    Args:
        prefix: Words of `sys.argv` before the overrides: the verb.
    """
    words = sys.argv[1 + len(prefix) :]
    if not words or words[0] in ("--help", "-h", "help"):
        print(describe_kinds(), end="")
        return
    what = kind_of(words)
    if what is None:
        name = words[0].partition("=")[0]
        if name in OLD_KINDS:
            print(
                f"error: `{name}` is now called `{OLD_KINDS[name]}`: bnn visualize {OLD_KINDS[name]}=...",
                file=sys.stderr,
            )
            raise SystemExit(EXIT_CODE)
        print(f"error: `{name}`: no such picture.{did_you_mean(name, KINDS)}\n\n{describe_kinds()}", file=sys.stderr)
        raise SystemExit(EXIT_CODE)
    # `bnn visualize landscape --help`: the bare word says only which keys there are.
    bare = (what,) if words[0] == what else ()
    launch(partial(draw, what), config_name=f"visualize/{what}", prefix=(*prefix, *bare))


def draw(what: str, config: DictConfig) -> float | None:
    """Draw with a composed configuration.

    Args:
        what: One of `KINDS`.
        config: As composed by Hydra from `visualize/<what>.yaml`.

    Raises:
        UserError: matplotlib is not installed, or whatever the kind refuses.
    """
    try:
        require("matplotlib", extra="visualize")
    except ModuleNotFoundError as error:
        raise UserError(str(error)) from error
    # Imported late: `--help` and `--cfg job` do without torch and matplotlib.
    found: float | None = importlib.import_module(f"bnn_lightning.cli.visualize.{what}").draw(config)
    return found


def kind_of(words: Sequence[str]) -> str | None:
    """Return what the first word that names a picture asks for.

    Example:
        >>> kind_of(["-m", "landscape=runs/a", "seed=1,2"])
        'landscape'
    """
    names = [words[0], *(word.partition("=")[0] for word in words if "=" in word)]
    return next((name for name in names if name in KINDS), None)


def describe_kinds() -> str:
    """Return the help of the verb: every kind with a line."""
    width = max(map(len, KINDS)) + 2
    return HELP.format(kinds="\n".join(f"    {name:<{width}}{line}" for name, line in KINDS.items()))
