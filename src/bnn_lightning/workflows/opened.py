"""Networks that verbs open: a checkpoint of ours, or a published one that `model=` and `data=` describe."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bnn_lightning.data.encoded_images import EncodedDataModule
from bnn_lightning.layers.module_utils import evaluation
from bnn_lightning.models.checkpoints import load_published
from bnn_lightning.tasks.classification import ClassificationTask
from bnn_lightning.utils.image_size import sides
from bnn_lightning.utils.text import some
from bnn_lightning.workflows.building import PACKAGE, build_datamodule, build_network, check
from bnn_lightning.workflows.checkpoint import (
    embedded_classes,
    embedded_config,
    explained,
    is_ours,
    load_task,
    network_file,
    read_checkpoint,
)
from bnn_lightning.workflows.config_options import label_of
from bnn_lightning.workflows.errors import UserError, as_user_error
from bnn_lightning.workflows.messages import say
from bnn_lightning.workflows.sections import data_folder, data_section, model_section
from bnn_lightning.zoo.files import is_name

Plain = dict[str, Any]


@dataclass(frozen=True)
class OpenedNetwork:
    """A trained network and where it comes from.

    Attributes:
        path: The file.
        task: The network in a task, in evaluation mode.
        config: Configuration that it was built from, as far as the file says it: the sections `model` and `data`, and
            of a checkpoint of ours all others.
        data: The section of the data to score it on.
        class_names: Class names of the data that it was trained on, in the order of the labels; none where they are not
            known.
    """

    path: str
    task: ClassificationTask
    config: Plain
    data: Plain
    class_names: tuple[str, ...] = ()

    def datamodule(self, *, trust: Sequence[str] = ()) -> Any:
        """Return the data module to score the network on, whose images and labels it takes.

        Raises:
            UserError: See `build`; or other images or classes than the network's.
        """
        datamodule = build_datamodule(self.data, trust=trust)
        _check_equal("num_classes", self.task.backbone, datamodule, self.path)
        check_class_names(self.class_names, datamodule, self.path)
        check_images(self.task.backbone, datamodule, self.path)
        return datamodule


@dataclass(frozen=True)
class Described:
    """Settings of a command that name a network and its data, beside a checkpoint or a packed file.

    Attributes:
        model: The section `model` of a published file; empty for a file that says itself which network it is.
        data: The section `data`: all of it with a `_target_`, otherwise what takes the place of the file's own; null
            changes nothing.
        data_dir: Folder of the data files, where those of the training are not there.
    """

    model: Plain = field(default_factory=dict)
    data: Plain = field(default_factory=dict)
    data_dir: str = "data"

    def data_beside(self, known: Mapping[str, Any]) -> Plain:
        """Return the section `data` to score a network on.

        Args:
            known: The data that a network was trained on, or a file was exported with.
        """
        given = {key: value for key, value in self.data.items() if value is not None}
        if "_target_" in given:
            return dict(self.data)
        data = {**known, **given}
        has_root = "root" in known or str(known.get("_target_")).startswith(f"{PACKAGE}.")  # packed files leave it out
        if has_root and "root" not in given and not Path(str(data.get("root"))).exists():
            data["root"] = self.data_dir
        return data


def describe(model: str | Plain | None, data: str | Plain | None, data_dir: str | Path | None) -> Described:
    """Return the network and data that a call in Python describes.

    Args:
        model: Name of a backbone, its arguments with its `name`, or a section of a configuration; None for a file that
            says itself which it is.
        data: Name of a set (see `sections.DATA`), its arguments with its `name`, a section of a configuration, or keys
            that take the place of the file's own.
        data_dir: Folder of the data files; None: see `sections.data_folder`.

    Raises:
        UserError: An unknown name, or a value that the data module refuses.
    """
    folder = data_folder(data_dir)
    data = data_section(data or {}, folder)
    return Described(model_section(model or {}, data), data, folder)


def add_network(network: object, options: Plain, *, key: str | None = None) -> None:
    """Add the network that a verb is given to its options: as `packed` a packed file or a name of the zoo, else `ckpt`.

    The settings refuse what is no path.

    Args:
        network: The argument of the verb; None and a module add nothing.
        options: Keys of the verb's settings.
        key: The key to add, in the place of these two.

    Raises:
        UserError: The options name a network, too.
    """
    if network is None:
        return
    for other in ("ckpt", "packed"):
        if options.get(other) is not None:
            shown = type(network).__name__ if isinstance(network, nn.Module) else network
            raise UserError(f"name one network: {shown} is given, and {other}={options[other]}.")
    if not isinstance(network, nn.Module):
        is_packed = isinstance(network, str | os.PathLike) and Path(network).suffix == ".bnn"
        options[key or ("packed" if is_packed or is_name(network) else "ckpt")] = network


def open_checkpoint(ckpt: str | Path, described: Described, *, trust: Sequence[str] = ()) -> OpenedNetwork:
    """Read a checkpoint of ours, which says itself what it is, or a published one.

    Args:
        ckpt: A file, or the folder of a run of ours.
        described: The network and the data of a published file; or what takes the place of a checkpoint's own data.
        trust: See `load_task`.

    Raises:
        UserError: See `load_task`; a network is named beside a checkpoint of ours, or none beside a published file.
    """
    path = str(network_file(ckpt))
    checkpoint = read_checkpoint(path)
    if not is_ours(checkpoint):
        return _published(path, described, trust=trust)
    refuse_model(path, described)
    embedded = embedded_config(checkpoint, path)
    task = load_task(path, trust=trust)
    data = described.data_beside(embedded["data"])
    with explained(path):
        check(data, at="data", trust=trust)
    name, trained = label_of(embedded["model"]), embedded["data"].get("name")
    say(f"{path}: {name}, trained on {trained}; scored on {data.get('name')}")
    return OpenedNetwork(path, task, embedded, data, embedded_classes(checkpoint))


def refuse_model(path: str, described: Described) -> None:
    """Refuse a network beside a file that says itself which one it is.

    Raises:
        UserError: There is one.
    """
    if "_target_" in described.model:
        raise UserError(f"`{path}` says itself which network it is: leave `model=` out.")


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
            f"data.image_size={trained} (from Python, data={{'image_size': {trained}}} beside its name), if the data "
            "can be had so."
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
        f"{some(sorted(set(trained) - set(names)))} and has {some(sorted(set(names) - set(trained)))} besides: the "
        "folders of the classes must have the names that they had in training."
    )


def _check_equal(name: str, network: Any, datamodule: Any, path: str | Path) -> None:
    wanted = getattr(network, name, None)
    given = getattr(datamodule, name, wanted)
    if wanted is not None and wanted != given:
        folders = ""
        if name == "num_classes" and isinstance(datamodule, EncodedDataModule):
            folders = f": `data.root={datamodule.root}` has the folders {some(sorted(datamodule.class_names))}"
        raise UserError(f"`{path}` is a network with {name}={wanted}, and the data have {name}={given}{folders}.")


def only_scored(backbone: nn.Module, num_classes: int) -> ClassificationTask:
    """Return a task that is not trained: its optimizer is never made."""
    task = ClassificationTask(backbone, num_classes=num_classes, optimizer=partial(torch.optim.SGD, lr=0.1))
    return task.eval()


def _published(ckpt: str, described: Described, *, trust: Sequence[str]) -> OpenedNetwork:
    model, data = described.model, described.data
    if "_target_" not in model or "_target_" not in data:
        raise UserError(
            f"`{ckpt}` is not a checkpoint of ours and does not say what it is: name the network and the "
            f"data, as in `bnn evaluate ckpt={ckpt} model=resnet20 data=cifar10`."
        )
    backbone = build_network({"model": model, "data": data}, trust=trust)
    with as_user_error():
        report = load_published(backbone, ckpt)
    says = "" if report.accuracy is None else f"; the file says {report.accuracy:.2f} %"
    dead = "" if not report.dead else f"; not used: {', '.join(report.dead)}"
    say(f"{ckpt}: {len(report.loaded)} tensors for {model.get('name')}{says}{dead}")
    return OpenedNetwork(ckpt, only_scored(backbone, data["num_classes"]), {"model": model, "data": data}, data)
