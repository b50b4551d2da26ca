"""Keys of a configuration that a verb reads, as its settings."""

from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bnn_lightning.cli.own_folder import own_targets
from bnn_lightning.workflows.settings import Settings, check_settings


def read_settings(kind: type[Settings], config: DictConfig) -> Settings:
    """Return the keys of `kind` from a configuration, with their types checked.

    Args:
        kind: A dataclass; fields without a default must have a value.
        config: As composed by Hydra.

    Raises:
        omegaconf.errors.OmegaConfBaseException: A value of another type, or none where one is needed.
        UserError: A value out of its range.
    """
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    given = {name: config[name] for name in names if name in config}
    settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), given))
    assert isinstance(settings, kind)
    check_settings(settings)
    if hasattr(settings, "trust"):
        settings.trust = [*settings.trust, *own_targets()]
    return settings


def plain_values(node: DictConfig, *, complete: bool = False) -> dict[str, Any]:
    """Return a section of a configuration as plain containers, resolved; `complete` refuses missing values."""
    plain = OmegaConf.to_container(node, resolve=True, throw_on_missing=complete)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
