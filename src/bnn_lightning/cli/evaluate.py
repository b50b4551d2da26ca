"""`bnn evaluate`: score every test image with a checkpoint, ours or a published one."""

from collections.abc import Sequence

from omegaconf import DictConfig

from bnn_lightning.cli.launch import launch


def main(prefix: Sequence[str] = ()) -> None:
    """Evaluate as the command line says.

    Args:
        prefix: Words of `sys.argv` before the overrides: the verb.
    """
    launch(evaluate, config_name="evaluate", prefix=prefix)


def evaluate(config: DictConfig) -> float | None:
    """Evaluate with a composed configuration; return the top-1 accuracy."""
    # Imported late: `--help` and `--cfg job` do without torch and Lightning.
    from bnn_lightning.cli.score import score

    return score(config).top1


if __name__ == "__main__":
    main()
