"""`bnn report`: one self-contained HTML page of a run."""

from collections.abc import Sequence

from omegaconf import DictConfig

from bnn_lightning.cli.launch import launch


def main(prefix: Sequence[str] = ()) -> None:
    """Report as the command line says.

    Args:
        prefix: Words of `sys.argv` before the overrides: the verb.
    """
    launch(report, config_name="report", prefix=prefix)


def report(config: DictConfig) -> float | None:
    """Write the page with a composed configuration; return its size in bytes."""
    # Imported late: `--help` and `--cfg job` do without torch and Lightning.
    from bnn_lightning.cli.gather import write_report

    return float(write_report(config))


if __name__ == "__main__":
    main()
