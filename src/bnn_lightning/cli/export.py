"""`bnn export`: a checkpoint as one packed file, a bit a weight, compared with the network before it is written."""

from collections.abc import Sequence

from omegaconf import DictConfig

from bnn_lightning.cli.launch import launch


def main(prefix: Sequence[str] = ()) -> None:
    """Export as the command line says.

    Args:
        prefix: Words of `sys.argv` before the overrides: the verb.
    """
    launch(export, config_name="export", prefix=prefix)


def export(config: DictConfig) -> float | None:
    """Export with a composed configuration; return the size of the file in bytes."""
    # Imported late: `--help` and `--cfg job` do without torch and Lightning.
    from bnn_lightning.cli.packing import write

    return float(write(config))


if __name__ == "__main__":
    main()
