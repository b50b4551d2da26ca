"""`bnn rank`: which of several teachers suits a student."""

from collections.abc import Sequence

from omegaconf import DictConfig

from bnn_lightning.cli.launch import launch


def main(prefix: Sequence[str] = ()) -> None:
    """Rank as the command line says.

    Args:
        prefix: Words of `sys.argv` before the overrides: the verb.
    """
    launch(rank, config_name="rank", prefix=prefix)


def rank(config: DictConfig) -> float | None:
    """Rank with a composed configuration; return the lowest knowledge complexity."""
    # Imported late: `--help` and `--cfg job` do without torch and Lightning.
    from bnn_lightning.cli.candidates import rank_teachers

    return rank_teachers(config)[0].knowledge.complexity


if __name__ == "__main__":
    main()
