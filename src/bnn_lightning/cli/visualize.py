"""`bnn visualize <what>=...`: figures; the configuration of a kind is `conf/visualize/<what>.yaml`."""

import sys
from collections.abc import Sequence
from functools import partial

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from bnn_lightning.cli.errors import EXIT_CODE
from bnn_lightning.cli.launch import is_sweep, launch
from bnn_lightning.workflows.figure_kinds import KINDS, unknown_kind

HELP = """bnn visualize: figures of networks and runs.

    bnn visualize <what>=... [keys]
    bnn visualize <what> --help

{kinds}

Each writes its figures to `out`, a folder or a file, and beside them the numbers that they show.
"""


def main(prefix: Sequence[str]) -> None:
    """Draw the kind of figure that the first key of the command line names.

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
        print(f"error: {unknown_kind(name)}\n\n{describe_kinds()}", end="", file=sys.stderr)
        raise SystemExit(EXIT_CODE)
    # `bnn visualize landscape --help`: the bare word says only which keys there are.
    bare = (what,) if words[0] == what else ()
    launch(partial(draw, what), config_name=f"visualize/{what}", prefix=(*prefix, *bare))


def draw(what: str, config: DictConfig) -> None:
    """Draw with a composed configuration.

    Args:
        what: One of `KINDS`.
        config: As composed by Hydra from `visualize/<what>.yaml`.
    """
    # Imported late: `--help` and `--cfg job` do without torch and matplotlib.
    from bnn_lightning.cli.facts import described
    from bnn_lightning.cli.jobs import printed
    from bnn_lightning.cli.schema import read_settings
    from bnn_lightning.workflows.visualization import settings_of, visualize

    options = dict(vars(read_settings(settings_of(what), config)))
    known = {} if config.get("data") is None else {"data": described(config).data, "data_dir": config.paths.data_dir}
    ending = f"_{HydraConfig.get().job.num}" if is_sweep() else ""
    with printed():
        visualize(what, options.pop(what), **known, ending=ending, **options)


def kind_of(words: Sequence[str]) -> str | None:
    """Return the kind of figure that the first matching word names.

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
