"""Sections of a configuration from names, and facts of the data that they take, such as the number of classes."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from bnn_lightning.workflows.arguments import check_value
from bnn_lightning.workflows.building import FACTS, PACKAGE, build_datamodule, locate, takes
from bnn_lightning.workflows.errors import UserError, did_you_mean, listed

Plain = dict[str, Any]

# Data modules by the names that options of the configuration have, too.
DATA = {
    "cifar10": "CIFAR10DataModule",
    "cifar100": "CIFAR100DataModule",
    "digits": "DigitsDataModule",
    "folder": "FolderDataModule",
    "imagenet": "ImageNetDataModule",
    "imagenet_stream": "ImageNetStreamDataModule",
    "mnist": "MNISTDataModule",
    "synthetic": "SyntheticDataModule",
}
_NEEDED = ("num_classes", "in_channels", "image_size")


def data_folder(data_dir: str | os.PathLike[str] | None) -> str:
    """Return the folder of the data files: that of a call, or `BNN_DATA` of the environment, or `data`."""
    return os.environ.get("BNN_DATA", "data") if data_dir is None else os.fspath(data_dir)


def data_section(data: str | Plain, data_dir: str = "data") -> Plain:
    """Return the section of a set that is named, with the facts that its data module knows.

    Args:
        data: Name of a set, or its arguments with its `name`; other sections and single keys are as they were.
        data_dir: Folder of the data files of a set that is named.

    Raises:
        UserError: An unknown name, a value that the data module refuses, or what is neither text nor a mapping.

    Example:
        >>> data_section("mnist")["image_size"]
        28
    """
    check_value(data, str | Plain, "data")
    if not isinstance(data, str) and ("_target_" in data or data.get("name") not in DATA):
        return dict(data)
    given = {"name": data} if isinstance(data, str) else data
    if given["name"] not in DATA:
        near = did_you_mean(given["name"], DATA)
        raise UserError(f"`data`: there is no set {given['name']}.{near} There are: {listed(DATA)}.")
    section = {"_target_": f"{PACKAGE}.data.{DATA[given['name']]}", "root": data_dir, **given}
    datamodule = build_datamodule(section)
    return section | {fact: getattr(datamodule, fact) for fact in FACTS if getattr(datamodule, fact, None) is not None}


def model_section(model: str | Plain, data: Mapping[str, Any]) -> Plain:
    """Return the section of a network that is named, with the facts of its data; other sections are as they were.

    Args:
        model: Name of a backbone, its arguments with its `name`, or a section.
        data: Section of its data.

    Raises:
        UserError: `model` is neither text nor a mapping.

    Example:
        >>> model_section({"name": "mlp", "width": 64}, {"num_classes": 10})["_target_"]
        'bnn_lightning.models.create_backbone'
    """
    check_value(model, str | Plain, "model")
    section = {"name": model} if isinstance(model, str) else dict(model)
    if "_target_" in section or "name" not in section:
        return section
    facts = {fact: data[fact] for fact in FACTS if fact in data}
    return {"_target_": f"{PACKAGE}.models.create_backbone", **facts, **section}


def missing_facts(data: Mapping[str, Any], *, trust: Sequence[str] = ()) -> dict[str, Any]:
    """Return the facts that a section `data` does not state, from its data module.

    Args:
        data: The section, as plain containers.
        trust: See `build`.

    Raises:
        UserError: Nobody says how many classes there are, or the section and its module say different things.
    """
    if all(fact in data and (fact not in _NEEDED or data[fact] is not None) for fact in FACTS):
        return {}
    datamodule = build_datamodule(data, trust=trust)
    missing: dict[str, Any] = {}
    for fact in FACTS:
        value, stated = _plain(getattr(datamodule, fact, None)), data.get(fact)
        if value is None and stated is None and fact == "num_classes":
            raise UserError(
                f"`data`: {type(datamodule).__name__} does not say `{fact}`: give it as an attribute of the data "
                f"module, or in its file as `{fact}: ...`."
            )
        if value is not None and stated is not None and fact in _NEEDED and stated != value:
            raise UserError(f"`data.{fact}` is {stated}, and {type(datamodule).__name__} says {value}: leave it out.")
        is_open = fact not in data or (fact in _NEEDED and stated is None)
        if is_open and (value is not None or fact not in _NEEDED):
            missing[fact] = value
    return missing


def facts_taken(node: Mapping[str, Any], data: Mapping[str, Any], *, at: str, trust: Sequence[str] = ()) -> list[str]:
    """Return the facts of the data that a builder takes and that its section does not state.

    Args:
        node: The section, with a `_target_`.
        data: The section `data`.
        at: Name of the section.
        trust: See `build`.
    """
    target = locate(node["_target_"], at=at, trust=trust)
    return [fact for fact in FACTS if fact in data and fact not in node and takes(target, fact)]


def _plain(value: Any) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
