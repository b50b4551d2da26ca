"""`bnn profile`: count what a network is made of and what it costs, by the conventions of papers."""

from collections.abc import Sequence

from omegaconf import DictConfig

from bnn_lightning.cli.launch import launch


def main(prefix: Sequence[str] = ()) -> None:
    """Profile as the command line says.

    Args:
        prefix: Words of `sys.argv` before the overrides: the verb.
    """
    launch(profile, config_name="profile", prefix=prefix)


def profile(config: DictConfig) -> float | None:
    """Profile with a composed configuration; return the OPs (BOPs/64 + FLOPs)."""
    # Imported late: `--help` and `--cfg job` do without torch and Lightning.
    from bnn_lightning.cli.count import count

    return count(config).totals()["ops"]


if __name__ == "__main__":
    main()
