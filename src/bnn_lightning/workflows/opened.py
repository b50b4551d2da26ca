"""A checkpoint as verbs open it: one of ours, or a published one that `model=` and `data=` describe."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from bnn_lightning.cli.build import build_network, check
from bnn_lightning.cli.checkpoint import (
    embedded_classes,
    embedded_config,
    explained,
    is_ours,
    load_task,
    network_file,
    read_checkpoint,
)
from bnn_lightning.cli.errors import UserError, explain
from bnn_lightning.cli.facts import given_data, take_facts
from bnn_lightning.cli.own_folder import own_targets
from bnn_lightning.cli.schema import plain_values
from bnn_lightning.data.encoded_images import EncodedDataModule
from bnn_lightning.data.imagenet_folders import listed_names
from bnn_lightning.metrics.ops import evaluation
from bnn_lightning.models.checkpoints import load_published
from bnn_lightning.tasks.classification import ClassificationTask
from bnn_lightning.utils.image_size import sides

Plain = dict[str, Any]


@dataclass(frozen=True)
class Opened:
    """A trained network and where it comes from.

    Attributes:
        path: The file.
        task: The network in a task, in evaluation mode.
        config: What it was built from: the sections `model` and `data`, and of a checkpoint of ours all others.
        data: The section of the data to score it on.
        class_names: Of the data that it was trained on, in the order of the labels; none where they are not known.
    """

    path: str
    task: ClassificationTask
    config: Plain
    data: Plain
    class_names: tuple[str, ...] = ()


def open_checkpoint(ckpt: str, config: DictConfig, *, verb: str, trust: list[str]) -> Opened:
    """Read a checkpoint of ours, which says itself what it is, or a published one.

    Args:
        ckpt: A file, or the folder of a run of ours.
        config: Its sections `model` and `data` describe a published file. With one of ours, what is not null in `data`
            takes the place of the checkpoint's own.
        verb: For messages.
        trust: See `load_task`.

    Raises:
        UserError: See `load_task`; a network is named beside a checkpoint of ours, or none beside a published file.
    """
    path = str(network_file(ckpt))
    checkpoint = read_checkpoint(path)
    if is_ours(checkpoint):
        embedded = embedded_config(checkpoint, path)
        task, data = restore(path, config, embedded, trust=trust)
        return Opened(path, task, embedded, data, embedded_classes(checkpoint))
    task, model, data = _published(path, config, verb=verb)
    return Opened(path, task, {"model": model, "data": data}, data)


def restore(ckpt: str, config: DictConfig, embedded: Plain, *, trust: list[str]) -> tuple[ClassificationTask, Plain]:
    """Return the task of a checkpoint of ours, and the configuration of the data to score it on.

    Args:
        ckpt: The checkpoint.
        config: What is not null in its `data` takes the place of the checkpoint's own.
        embedded: The configuration in the checkpoint.
        trust: See `load_task`.

    Raises:
        UserError: See `load_task`; or `config` names another network.
    """
    if "_target_" in config.get("model", {}):
        raise UserError(f"`{ckpt}` says itself which network it is: leave `model=` out.")
    task = load_task(ckpt, trust=trust)
    data = given_data(config, embedded["data"])
    with explained(ckpt):
        check(data, at="data", trust=trust)
    name = embedded["model"].get("name", embedded["model"].get("_target_"))
    say(f"{ckpt}: {name}, trained on {embedded['data'].get('name')}; scored on {data.get('name')}")
    return task, data


def check_labels(network: Any, datamodule: Any, path: str | Path) -> None:
    """Refuse data with another number of classes than a network's.

    Raises:
        UserError: Names both numbers.
    """
    _check_equal("num_classes", network, datamodule, path)


def check_images(network: Any, datamodule: Any, path: str | Path) -> None:
    """Refuse images that a network does not take, and say so where it was trained on images of another size.

    Raises:
        UserError: Names both numbers of channels, or both sizes.
    """
    _check_equal("in_channels", network, datamodule, path)
    trained, size = getattr(network, "image_size", None), getattr(datamodule, "image_size", None)
    channels = getattr(datamodule, "in_channels", None)
    if size is None or not isinstance(channels, int) or trained is None or sides(trained) == sides(size):
        return
    try:
        with evaluation(network), torch.no_grad():
            network(torch.zeros(1, channels, *sides(size)))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"`{path}` is a network for images of {trained} pixels, and these have {size}: take "
            f"data.image_size={trained}, if the data can be had so."
        ) from error
    say(f"{path}: trained on images of {trained} pixels, scored on images of {size}")


def known_classes(datamodule: Any) -> tuple[str, ...]:
    """Return the names of the classes of a data module; none where they are not known, or are just numbers."""
    names = tuple(str(name) for name in getattr(datamodule, "class_names", None) or ())
    return () if names == tuple(str(label) for label in range(len(names))) else names


def check_class_names(trained: Sequence[str], datamodule: Any, path: str | Path) -> None:
    """Refuse folders of other classes than those that a network was trained on: its labels would mean others.

    Args:
        trained: Names of its classes; none where they are not known.
        datamodule: Data to score, or to train on.
        path: File of the network, for the message.

    Raises:
        UserError: Names the classes that differ.
    """
    names = known_classes(datamodule)
    if not isinstance(datamodule, EncodedDataModule) or len(names) != len(trained) or names == tuple(trained):
        return
    raise UserError(
        f"`{path}` was trained on other classes than those of `data.root={datamodule.root}`, which lacks "
        f"{listed_names(set(trained) - set(names))} and has {listed_names(set(names) - set(trained))} besides: the "
        "folders of the classes must have the names that they had in training."
    )


def _check_equal(name: str, network: Any, datamodule: Any, path: str | Path) -> None:
    wanted = getattr(network, name, None)
    given = getattr(datamodule, name, wanted)
    if wanted is not None and wanted != given:
        folders = _folders(datamodule) if name == "num_classes" else ""
        raise UserError(f"`{path}` is a network with {name}={wanted}, and the data have {name}={given}{folders}.")


def _folders(datamodule: Any) -> str:
    """Name the folders of the classes, where the data have some."""
    if not isinstance(datamodule, EncodedDataModule):
        return ""
    return f": `data.root={datamodule.root}` has the folders {listed_names(datamodule.class_names)}"


def only_scored(backbone: nn.Module, num_classes: int) -> ClassificationTask:
    """Return a task that is not trained: its optimizer is never made."""
    task = ClassificationTask(backbone, num_classes=num_classes, optimizer=partial(torch.optim.SGD, lr=0.1))
    return task.eval()


@rank_zero_only
def say(text: str) -> None:
    """Print a line, once."""
    print(text, flush=True)


def _published(ckpt: str, config: DictConfig, *, verb: str) -> tuple[ClassificationTask, Plain, Plain]:
    if "_target_" not in config.get("model", {}) or "_target_" not in config.data:
        raise UserError(
            f"`{ckpt}` is not a checkpoint of ours and does not say what it is: name the network and the "
            f"data, as in `bnn {verb} ckpt={ckpt} model=resnet20 data=cifar10`."
        )
    take_facts(config)
    model, data = plain_values(config.model), plain_values(config.data)
    backbone = build_network({"model": model, "data": data}, trust=own_targets())
    try:
        report = load_published(backbone, ckpt)
    except (ValueError, OSError) as error:
        raise UserError(explain(error)) from error
    says = "" if report.accuracy is None else f"; the file says {report.accuracy:.2f} %"
    dead = "" if not report.dead else f"; not used: {', '.join(report.dead)}"
    say(f"{ckpt}: {len(report.loaded)} tensors for {model.get('name')}{says}{dead}")
    return only_scored(backbone, data["num_classes"]), model, data
