"""Profiles of the networks that can be chosen, for the images of a data set."""

from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from bnn_lightning.cli.config_paths import config_dir, list_options
from bnn_lightning.cli.schema import plain_values
from bnn_lightning.workflows.errors import UserError, did_you_mean, listed
from bnn_lightning.workflows.profiling import profile_config

Totals = dict[str, float]


def profiles_of(networks: Sequence[str], data: str) -> dict[str, Totals]:
    """Return the sums of the profiles of networks that were never trained, by name.

    Args:
        networks: Options of `model`.
        data: An option of `data`.

    Raises:
        UserError: No such option.

    Example:
        >>> f"{profiles_of(['mlp'], 'mnist')['mlp']['binary_parameter_share']:.3f}"
        '0.996'
    """
    for group, wanted in (("data", [data]), ("model", networks)):
        for name in wanted:
            if name not in list_options(group):
                known = list_options(group)
                raise UserError(
                    f"`{group}={name}`: no such option.{did_you_mean(name, known)} `{group}` has: {listed(known)}."
                )
    found = {}
    for name in networks:
        config = _composed([f"model={name}", f"data={data}"])
        found[name] = profile_config(plain_values(config.model), plain_values(config.data)).totals()
    return found


def _composed(overrides: list[str]) -> DictConfig:
    if GlobalHydra.instance().is_initialized():  # within a command
        return compose("profile", overrides)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("profile", overrides)
