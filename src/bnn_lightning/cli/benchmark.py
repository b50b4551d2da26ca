"""`bnn benchmark`: the latency, memory and load time of a packed network, beside what one would run instead."""

from collections.abc import Sequence

from omegaconf import DictConfig

from bnn_lightning.cli.launch import launch


def main(prefix: Sequence[str] = ()) -> None:
    """Measure as the command line says.

    Args:
        prefix: Words of `sys.argv` before the overrides: the verb.
    """
    launch(benchmark, config_name="benchmark", prefix=prefix)


def benchmark(config: DictConfig) -> float | None:
    """Measure with a composed configuration; return the least median, in seconds, of what was measured."""
    # Imported late: `--help` and `--cfg job` do without torch and Lightning.
    from bnn_lightning.cli.contest import measure

    return min(entry.median for entry in measure(config).entries)


if __name__ == "__main__":
    main()
