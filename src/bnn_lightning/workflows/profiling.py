"""Profile of a network: parameters, operations, bytes and energy, from a name, a configuration or a checkpoint."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bnn_lightning.layers.module_utils import copy_network, is_binary
from bnn_lightning.metrics.profile import Profile, profile_csv, profile_json, profile_network, profile_text
from bnn_lightning.models.registry import list_backbones
from bnn_lightning.utils.image_size import sides
from bnn_lightning.workflows.building import build_on_meta
from bnn_lightning.workflows.checkpoint import embedded_config, is_ours, load_task, network_file, read_checkpoint
from bnn_lightning.workflows.checks_network import calling
from bnn_lightning.workflows.config_options import label_of
from bnn_lightning.workflows.errors import UserError, as_user_error, did_you_mean, listed
from bnn_lightning.workflows.opened import Described, add_network, describe, open_checkpoint
from bnn_lightning.workflows.process_state import contained
from bnn_lightning.workflows.settings import ProfileSettings, make_settings, takes

Plain = dict[str, Any]

_IMAGES = {"name": "images", "num_classes": 1000, "in_channels": 3, "image_size": 224}
ASSUMED = "no data was named, and so these images are assumed; others are given by data=..., as in data=cifar10"


@dataclass(frozen=True)
class Profiled:
    """Result of a profile: counts of a network, and the images that they hold for.

    Attributes:
        model: Name of the network.
        data: Name of the data whose images it takes.
        profile: The counts.
        ckpt: The checkpoint; None for a network that was never trained.
        data_assumed: Whether no data were named.
        binary_now: Whether its annealing is over.
    """

    model: str
    data: str
    profile: Profile
    ckpt: str | None = None
    data_assumed: bool = False
    binary_now: bool = True

    def __repr__(self) -> str:
        return self.text()

    def text(self) -> str:
        """Return the counts as text tables."""
        size = " x ".join(map(str, self.profile.input_size))
        unfinished = "" if self.binary_now else "; its annealing is not over: counted as the binary network"
        lines = [f"{self.model} on {self.data}, an image of {size}{unfinished}"]
        return "\n".join([*lines, f"{ASSUMED}\n" if self.data_assumed else "", profile_text(self.profile)])

    def json(self) -> str:
        """Return all counts as JSON, exact."""
        ckpt = {} if self.ckpt is None else {"ckpt": self.ckpt}
        facts = {"model": self.model, "data": self.data, "data_assumed": self.data_assumed}
        return profile_json(self.profile, **ckpt, **facts, binary_now=self.binary_now)

    def csv(self) -> str:
        """Return the counts as CSV, a line a layer."""
        return profile_csv(self.profile)


@takes(ProfileSettings)
@contained()
def profile(
    network: str | Path | nn.Module | None = None,
    *,
    model: str | Plain | None = None,
    data: str | Plain | None = None,
    data_dir: str | Path | None = None,
    data_assumed: bool = False,
    image_size: int | Sequence[int] | None = None,
    in_channels: int | None = None,
    num_classes: int | None = None,
    **options: Any,
) -> Profiled:
    """Count the parameters, operations, bytes and energy of a network for one image.

    Args:
        network: A name of `list_backbones()`, a checkpoint, a run's folder, a name of the zoo, or a module.
        model: Section of a configuration, in the place of a name; or of a published checkpoint.
        data: Set whose images are counted: a name, or a section of a configuration. None: images as a checkpoint or a
            module says, or as the next arguments say.
        data_dir: Folder of the data files; None: `BNN_DATA` of the environment, or "data".
        data_assumed: Whether nobody named the data.
        image_size: Height and width of an image; None: ImageNet's 224.
        in_channels: Channels of an image; None: 3.
        num_classes: Width of the logits; None: 1,000.
        options: Keys of `ProfileSettings`.

    Raises:
        UserError: No network is named, or two; a network that does not take the images; or a checkpoint that cannot be
            read.
    """
    named = isinstance(network, str) and network in list_backbones()
    if model is not None and (named or isinstance(network, nn.Module)):
        raise UserError(f"name one network: `model` is given, and {network if named else type(network).__name__}.")
    if isinstance(network, str) and not (named or Path(network).exists()):
        near = did_you_mean(network, list_backbones())
        if near:
            raise UserError(f"`{network}` is neither a network nor a file.{near}")
    add_network(None if named else network, options, key="ckpt")
    settings = make_settings(ProfileSettings, "profile", **options)
    sizes = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    sizes = {key: value for key, value in sizes.items() if value is not None}
    if sizes and (data is not None or (settings.ckpt is not None and not named)):
        source = f"`{settings.ckpt}`" if data is None else "`data`"
        raise UserError(f"{source} says what an image is: leave {listed(f'`{key}`' for key in sizes)} out.")
    if data is None and (named or settings.ckpt is None):
        data = _IMAGES | _facts(network) | sizes
    described = describe(str(network) if named else model, data, data_dir)
    if isinstance(network, nn.Module):
        return _of_module(network, described.data)
    if settings.ckpt is not None:
        return _of_checkpoint(settings, described)
    if "_target_" not in described.model:
        raise UserError(
            "name the network, and the data whose images it sees where those are not ImageNet's, as in "
            "`bnn profile model=resnet20 data=cifar10`; or a checkpoint of ours: ckpt=..."
        )
    counted = profile_config(described.model, described.data, trust=settings.trust)
    return Profiled(label_of(described.model), label_of(described.data), counted, data_assumed=data_assumed)


def _facts(network: object) -> Plain:
    """Return what a network says of its images."""
    facts = {key: getattr(network, key, None) for key in ("in_channels", "image_size")}
    return {key: value for key, value in facts.items() if isinstance(value, int | list | tuple)}


def _of_module(network: nn.Module, data: Plain) -> Profiled:
    name, size = type(network).__name__, _input_size(data)
    with calling(name, (1, *size)):
        counted = profile_quickly(partial(copy_network, network), size)
    return Profiled(name, label_of(data), counted, binary_now=is_binary(network))


def _of_checkpoint(settings: ProfileSettings, described: Described) -> Profiled:
    ckpt = str(network_file(str(settings.ckpt)))
    checkpoint = read_checkpoint(ckpt)
    if is_ours(checkpoint):
        if "_target_" in described.model or "_target_" in described.data:
            raise UserError(f"`{ckpt}` says itself which network it is: leave `model=` and `data=` out.")
        known, network = embedded_config(checkpoint, ckpt), load_task(ckpt, trust=settings.trust).backbone
    else:
        opened = open_checkpoint(ckpt, described, trust=settings.trust)
        known, network = opened.config, opened.task.backbone
    counted = profile_quickly(partial(copy_network, network), _input_size(known["data"]))
    labels = label_of(known["model"]), label_of(known["data"])
    return Profiled(*labels, counted, ckpt=ckpt, binary_now=is_binary(network))


def profile_quickly(make: Callable[[], nn.Module], input_size: tuple[int, ...]) -> Profile:
    """Count a network, on torch's meta device where it can be built and run there.

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


def profile_config(model: Plain, data: Plain, *, trust: Sequence[str] = ()) -> Profile:
    """Count the network of a configuration.

    Args:
        model: The section `model`.
        data: The section `data`, for the shape of an image.
        trust: See `build`.

    Raises:
        UserError: See `build`, and `calling`.
    """
    size = _input_size(data)
    with calling(label_of(model), (1, *size)):
        return profile_quickly(lambda: build_on_meta(model, at="model", trust=trust), size)


def profiles_of(networks: Sequence[str], data: Plain) -> dict[str, dict[str, float]]:
    """Return the sums of the profiles of networks that were never trained, by name.

    Args:
        networks: Names of `list_backbones()`.
        data: The section `data`, for the shape of an image and the number of classes.

    Raises:
        UserError: No such network.

    Example:
        >>> data = {"num_classes": 10, "in_channels": 1, "image_size": 28}
        >>> f"{profiles_of(['mlp'], data)['mlp']['binary_parameter_share']:.3f}"
        '0.996'
    """
    return {name: profile_config(describe(name, data, "data").model, data).totals() for name in networks}


def _input_size(data: Plain) -> tuple[int, ...]:
    for key, kinds in (("in_channels", int), ("image_size", int | list | tuple)):
        if not isinstance(data.get(key), kinds):
            found = f"got {data[key]!r}" if key in data else "and is not there"
            raise UserError(f"`data.{key}` must be a whole number for an image to be counted, {found}.")
    with as_user_error("`data.image_size`: "):
        return (int(data["in_channels"]), *sides(data["image_size"]))
