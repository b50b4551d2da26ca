"""Count a network that a configuration or a checkpoint names."""

import copy
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import torch
from hydra import compose
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from bnn_lightning.cli.build import build
from bnn_lightning.cli.checkpoint import embedded_config, is_ours, load_task, network_file, read_checkpoint
from bnn_lightning.cli.errors import UserError
from bnn_lightning.cli.facts import take_facts
from bnn_lightning.cli.noise import silence
from bnn_lightning.cli.opened import open_checkpoint
from bnn_lightning.cli.own_folder import own_targets
from bnn_lightning.cli.schema import ProfileSettings, read_settings
from bnn_lightning.layers.module_utils import is_binary
from bnn_lightning.metrics.profile import Profile, profile_csv, profile_json, profile_network, profile_text
from bnn_lightning.utils.image_size import sides

Plain = dict[str, Any]

_ASSUMED = "no data was named, and so these images are assumed; others are given by data=..., as in data=cifar10"


def count(config: DictConfig) -> Profile:
    """Count a network, and print what was found.

    Args:
        config: As composed by Hydra from `profile.yaml`.

    Raises:
        UserError: No network is named, or two; or a checkpoint that cannot be read.
    """
    settings = read_settings(ProfileSettings, config)
    silence()
    facts: Plain
    if settings.ckpt is not None:
        facts, profile = _of_checkpoint(settings, config)
    else:
        facts, profile = _of_config(settings, config)
    if settings.format == "json":
        print(profile_json(profile, **facts))
    elif settings.format == "csv":
        print(profile_csv(profile))
        if facts["data_assumed"]:
            print(_ASSUMED, file=sys.stderr)
    else:
        size = " x ".join(map(str, profile.input_size))
        unfinished = "" if facts["binary_now"] else "; its annealing is not over: counted as the binary network"
        print(f"{facts['model']} on {facts['data']}, an image of {size}{unfinished}")
        print(f"{_ASSUMED}\n" if facts["data_assumed"] else "", profile_text(profile), sep="\n")
    return profile


def profile_quickly(make: Callable[[], nn.Module], input_size: tuple[int, ...]) -> Profile:
    """Count without computing anything, on torch's meta device, where the network can be made and run there.

    Args:
        make: Makes the network; torch's random numbers are afterwards as before.
        input_size: Shape of one image, (C, H, W).
    """
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                network = make()
            return profile_network(network.to("meta"), input_size)
        except (NotImplementedError, RuntimeError):  # a network that looks at values
            return profile_network(make(), input_size)


def profile_config(model: Plain, data: Plain, *, trust: list[str] | None = None) -> Profile:
    """Count the network of a configuration.

    Args:
        model: The section `model`.
        data: The section `data`, for the shape of an image.
        trust: See `build`.

    Raises:
        UserError: See `build`.
    """
    return profile_quickly(lambda: build(model, at="model", trust=trust or []), _input_size(data))


def _of_config(settings: ProfileSettings, config: DictConfig) -> tuple[Plain, Profile]:
    if "_target_" not in config.model:
        raise UserError(
            "name the network, and the data whose images it sees where those are not ImageNet's, as in "
            "`bnn profile model=resnet20 data=cifar10`; or a checkpoint of ours: ckpt=..."
        )
    assumed = "_target_" not in config.data
    if assumed:
        config = _with_imagenet(config)
    take_facts(config)
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    sections = {name: plain[name] for name in ("model", "data")}
    facts = _facts(sections) | {"data_assumed": assumed, "binary_now": True}
    return facts, profile_config(plain["model"], plain["data"], trust=own_targets())


def _with_imagenet(config: DictConfig) -> DictConfig:
    """Return the configuration with the facts of ImageNet, of which no file is needed."""
    config = copy.deepcopy(config)
    with open_dict(config):
        config.data = OmegaConf.merge(compose("profile", ["data=imagenet"]).data, config.data)
    return config


def _of_checkpoint(settings: ProfileSettings, config: DictConfig) -> tuple[Plain, Profile]:
    assert settings.ckpt is not None
    ckpt = str(network_file(settings.ckpt))
    checkpoint = read_checkpoint(ckpt)
    if is_ours(checkpoint):
        if "_target_" in config.model or "_target_" in config.data:
            raise UserError(f"`{ckpt}` says itself which network it is: leave `model=` and `data=` out.")
        known, network = embedded_config(checkpoint, ckpt), load_task(ckpt, trust=settings.trust).backbone
    else:
        with redirect_stdout(sys.stderr):  # what is printed is the profile alone
            opened = open_checkpoint(ckpt, config, verb="profile", trust=settings.trust)
        known, network = opened.config, opened.task.backbone
    facts = {"ckpt": ckpt} | _facts(known) | {"data_assumed": False, "binary_now": is_binary(network)}
    return facts, profile_quickly(lambda: copy.deepcopy(network), _input_size(known["data"]))


def _facts(plain: Plain) -> Plain:
    model, data = plain["model"], plain["data"]
    return {"model": model.get("name", model["_target_"]), "data": data.get("name", data["_target_"])}


def _input_size(data: Plain) -> tuple[int, ...]:
    for key, kinds in (("in_channels", int), ("image_size", int | list | tuple)):
        if not isinstance(data.get(key), kinds):
            raise UserError(f"`data.{key}` must be a whole number for an image to be counted, and is not there.")
    return (int(data["in_channels"]), *sides(data["image_size"]))
