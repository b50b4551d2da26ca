"""Facts of the data, such as the number of classes: stated once, by the configuration or by the data module."""

import copy
from typing import Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf, open_dict

from bnn_lightning.cli.config_paths import label_of
from bnn_lightning.cli.own_folder import own_targets
from bnn_lightning.cli.schema import plain_values
from bnn_lightning.workflows.building import FACTS, build_datamodule, locate, takes
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.opened import Described

# Sections whose builders are given facts of the data that their signatures take.
_TAKERS = ("model", "distill")
_NEEDED = ("num_classes", "in_channels", "image_size")


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
    if any(fact not in config.data or (fact in _NEEDED and config.data[fact] is None) for fact in FACTS):
        _ask_module(config)
    for section in _TAKERS:
        node = config.get(section)
        if node is None or "_target_" not in node:
            continue
        target = locate(node["_target_"], at=section, trust=own_targets())
        for fact in FACTS:
            if fact in config.data and fact not in node and takes(target, fact):
                _update(config, f"{section}.{fact}", config.data[fact])


def described(config: DictConfig) -> Described:
    """Return what a command about a checkpoint or a packed file says of its network and data, as plain containers.

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


def _ask_module(config: DictConfig) -> None:
    stated = plain_values(config.data)
    datamodule = build_datamodule(stated, trust=own_targets())
    for fact in FACTS:
        value = _plain(getattr(datamodule, fact, None))
        if value is None:
            if fact in _NEEDED and stated.get(fact) is None and fact == "num_classes":
                raise UserError(
                    f"`data`: {type(datamodule).__name__} does not say `{fact}`: give it as an attribute of the data "
                    f"module, or in its file as `{fact}: ...`."
                )
            if fact not in _NEEDED and fact not in stated:
                _update(config, f"data.{fact}", None)
        elif stated.get(fact) is None:
            if fact in _NEEDED or fact not in stated:
                _update(config, f"data.{fact}", value)
        elif fact in _NEEDED and stated[fact] != value:
            raise UserError(
                f"`data.{fact}` is {stated[fact]}, and {type(datamodule).__name__} says {value}: leave it out."
            )


def _plain(value: Any) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _update(config: DictConfig, key: str, value: Any) -> None:
    with open_dict(config):
        OmegaConf.update(config, key, value, force_add=True)
