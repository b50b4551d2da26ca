"""`bnn train`, and `train.py`: compose the configuration and train with it."""

from collections.abc import Sequence

from omegaconf import DictConfig

from bnn_lightning.cli.launch import launch


def main(prefix: Sequence[str] = ()) -> None:
    """Train as the command line says.

    Args:
        prefix: Words of `sys.argv` before the overrides: the verb, when started as `bnn train`.
    """
    launch(train, config_name="train", prefix=prefix)


def train(config: DictConfig) -> float | None:
    """Train with a composed configuration; return a sweep's objective."""
    # Imported late: `--help` and `--cfg job` do without torch and Lightning.
    from bnn_lightning.cli.fit import fit

    return fit(config)


if __name__ == "__main__":
    main()
