"""Facts of the data, such as the number of classes: stated once, by the configuration or by the data module."""

import copy
from typing import Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf, open_dict

from bnn_lightning.cli.own_folder import own_targets
from bnn_lightning.cli.schema import plain_values
from bnn_lightning.workflows.config_options import label_of
from bnn_lightning.workflows.opened import Described
from bnn_lightning.workflows.sections import facts_taken, missing_facts

# Sections whose builders are given facts of the data that their signatures take.
_TAKERS = ("model", "distill")


def take_facts(config: DictConfig) -> None:
    """Complete a configuration, in place: with facts that the data module knows, and names that files do not give.

    `data` gets what it does not state from the data module. The network and the distiller get those facts that their
    signatures take, where their own sections do not state them.

    Args:
        config: Before anything of it is resolved.

    Raises:
        UserError: Nobody says how many classes there are, or `data` and its module say different things.
    """
    for section in ("model", "data"):
        node = config.get(section)
        if node is not None and "_target_" in node and node.get("name") is None:
            _update(config, f"{section}.name", label_of(node))
    if config.get("data") is None or "_target_" not in config.data:
        return
    for fact, value in missing_facts(plain_values(config.data), trust=own_targets()).items():
        _update(config, f"data.{fact}", value)
    for section in _TAKERS:
        node = config.get(section)
        if node is not None and "_target_" in node:
            for fact in facts_taken(node, config.data, at=section, trust=own_targets()):
                _update(config, f"{section}.{fact}", config.data[fact])


def described(config: DictConfig) -> Described:
    """Return the network and data that a command on a checkpoint or a packed file names, as plain containers.

    Args:
        config: With the sections `model` (if the verb takes one), `data` and `paths`.

    Raises:
        UserError: See `take_facts`.
    """
    node = config.get("model") or OmegaConf.create()
    if "_target_" in node and "_target_" not in config.data:  # refused; its interpolations have no values
        return Described({"_target_": node["_target_"]}, plain_values(config.data), config.paths.data_dir)
    take_facts(config)
    model = plain_values(node) if "_target_" in node else {}
    return Described(model, plain_values(config.data), config.paths.data_dir)


def with_assumed_data(config: DictConfig) -> DictConfig:
    """Return a configuration with the facts of ImageNet, of which no file is needed."""
    config = copy.deepcopy(config)
    with open_dict(config):
        config.data = OmegaConf.merge(compose("profile", ["data=imagenet"]).data, config.data)
    return config


def _update(config: DictConfig, key: str, value: Any) -> None:
    with open_dict(config):
        OmegaConf.update(config, key, value, force_add=True)
