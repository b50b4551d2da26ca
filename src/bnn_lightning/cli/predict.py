"""`bnn predict`: the classes of images, by a packed network."""

from collections.abc import Sequence

from omegaconf import DictConfig

from bnn_lightning.cli.launch import launch


def main(prefix: Sequence[str] = ()) -> None:
    """Predict as the command line says.

    Args:
        prefix: Words of `sys.argv` before the overrides: the verb.
    """
    launch(predict, config_name="predict", prefix=prefix)


def predict(config: DictConfig) -> float | None:
    """Predict with a composed configuration; return the number of images."""
    # Imported late: `--help` and `--cfg job` do without torch.
    from bnn_lightning.cli.classify import classify

    return float(len(classify(config)))


if __name__ == "__main__":
    main()
