"""From plain containers to objects, against the list of allowed targets."""

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningDataModule

from bnn_lightning.binarizers import factory
from bnn_lightning.data.third_party import adapt
from bnn_lightning.models import registry
from bnn_lightning.tasks.classification import ClassificationTask
from bnn_lightning.tasks.tuners import why_refused
from bnn_lightning.utils.image_size import plain_size
from bnn_lightning.workflows.allowed import ALLOWED, SUBPACKAGES
from bnn_lightning.workflows.arguments import NODE_KEYS, check_arguments
from bnn_lightning.workflows.errors import UserError, as_user_error, did_you_mean, listed
from bnn_lightning.workflows.old_names import TARGETS

Node = Mapping[str, Any]

PACKAGE = "bnn_lightning"
# Facts of the data that networks are built for.
FACTS = ("num_classes", "in_channels", "image_size", "mean", "std")
# By section: keys that are for us, and for its builder only where the signature takes them.
_OURS = {"model": ("name",), "data": ("name", *FACTS)}
# Sections of the configuration, and what the task calls them.
_TASK_SECTIONS = {
    "model": "backbone",
    "distill": "distiller",
    "optimizer": "optimizer",
    "param_groups": "param_groups",
    "lr_scheduler": "lr_scheduler",
}
_CHECKPOINT_TEACHER = f"{PACKAGE}.distill.checkpoint_teacher"
# Errors that builders refuse values with, and networks a batch, those of users' own classes included.
REFUSALS = (
    *(ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, ImportError, LookupError, MemoryError),
    *(MisconfigurationException, NameError, OSError, RuntimeError, SyntaxError, TypeError, ValueError, Warning),
)


class ForeignTargetError(UserError):
    """A target of a package that is not trusted.

    Args:
        target: As the configuration has it.
        at: Place in the configuration.
    """

    def __init__(self, target: Any, at: str) -> None:
        self.target, self.at = target, at
        self.package = str(target).partition(".")[0]
        super().__init__(
            f"`{at}._target_`: {target!r} is not on the list of what may be built. Ours are `{PACKAGE}.*`, and some "
            "classes of torch, torchvision and Lightning; of other packages, those that files of a folder of your own "
            f"name in `_target_` (-cd conf). A checkpoint may name {self.package} with trust=[{self.package}]."
        )


def build(node: Node, *, at: str, trust: Sequence[str] = ()) -> Any:
    """Build the object of a node, and those of the nodes in it.

    Args:
        node: Plain containers without interpolations; `_target_` names what is called with the other keys.
        at: Place of the node in the configuration, for messages.
        trust: Packages beside ours whose classes and functions may be called.

    Raises:
        UserError: A target that is not allowed, arguments that it does not take, or a value that it refuses.
    """
    _named(node, at)
    check(node, at=at, trust=trust)
    arguments = dict(node) if at not in _OURS else _without_ours(node, at, locate(node["_target_"], at=at, trust=trust))
    return _instantiate(arguments, at, trust)


def build_on_meta(node: Node, *, at: str, trust: Sequence[str] = ()) -> Any:
    """Build the object of a node on torch's meta device; on the CPU where a builder looks at values, as RegNet's does.

    torch's random numbers are afterwards as before.

    Raises:
        UserError: See `build`.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return build(node, at=at, trust=trust)
        except UserError as error:
            if not isinstance(error.__cause__, RuntimeError):  # values of the meta device are one
                raise
        with torch.device("cpu"):
            return build(node, at=at, trust=trust)


def _instantiate(node: Any, at: str, trust: Sequence[str]) -> Any:
    """Return a copy of plain containers in which every node is what it builds; inner nodes are built first."""
    if isinstance(node, list | tuple):
        return [_instantiate(value, f"{at}[{index}]", trust) for index, value in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    arguments = {key: value for key, value in node.items() if key not in NODE_KEYS}
    if node.get("_recursive_", True):
        arguments = {key: _instantiate(value, f"{at}.{key}", trust) for key, value in arguments.items()}
    if "_target_" not in node:
        return arguments
    target = locate(node["_target_"], at=at, trust=trust)
    if node.get("_partial_", False):
        return partial(target, **arguments)
    try:
        return target(**arguments)
    except REFUSALS as error:
        raise UserError(f"`{at}`: {str(error) or type(error).__name__}") from error


def check(node: Any, *, at: str, trust: Sequence[str] = ()) -> None:
    """Hold every target in a node against the list of allowed ones, and its arguments against its signature.

    Raises:
        UserError: See `build`.
    """
    for target_node, place in _target_nodes(node, at):
        target = locate(target_node["_target_"], at=place, trust=trust)
        given = {k: v for k, v in _without_ours(target_node, place, target).items() if k not in NODE_KEYS}
        function, arguments = _builder(target, given, place)
        check_arguments(function, arguments, place, partial=bool(target_node.get("_partial_", False)))


def locate(target: Any, *, at: str, trust: Sequence[str] = ()) -> Callable[..., Any]:
    """Return the object that a `_target_` names, if it is allowed.

    Allowed are what the `SUBPACKAGES` of `bnn_lightning` export, what a trusted package itself defines, and the
    classes of `ALLOWED`.

    Raises:
        UserError: It is not allowed, or does not exist.
    """
    if (reason := why_refused(target)) is not None:
        raise UserError(f"`{at}._target_`: {reason}")
    package = target.partition(".")[0] if isinstance(target, str) else ""
    if package == PACKAGE:
        _check_own(target, at)
    elif package not in trust and not (isinstance(target, str) and target in (*trust, *ALLOWED)):
        raise ForeignTargetError(target, at)
    found = _import(target, at)
    # A module reaches what it imports: `my_package.os.system` begins with a trusted name, too.
    if package in trust and (getattr(found, "__module__", None) or "").partition(".")[0] != package:
        raise UserError(f"`{at}._target_`: {target!r} is not defined in `{package}`, and so may not be built.")
    if isinstance(found, ModuleType) or not callable(found):
        raise UserError(f"`{at}._target_`: {target!r} is neither a class nor a function.")
    return found  # type: ignore[no-any-return]


def takes(target: Callable[..., Any], argument: str) -> bool:
    """Whether a signature names an argument."""
    try:
        return argument in inspect.signature(target).parameters
    except (TypeError, ValueError):  # written in C, without a signature
        return False


def _named(node: Node, at: str) -> None:
    """See that a node says what is built."""
    if "_target_" not in node:
        raise UserError(f"`{at}` has no `_target_`: name what is built, as in `_target_: my_package.tiny`.")


def _without_ours(node: Node, at: str, target: Callable[..., Any]) -> dict[str, Any]:
    """Return a node without the keys that are for us and that its builder does not take; of data, null ones, too."""
    ours = () if target in _REGISTRIES else _OURS.get(at, ())
    empty = {key for key, value in node.items() if value is None} if at == "data" else set()
    return {k: value for k, value in node.items() if (k not in ours and k not in empty) or takes(target, k)}


def _check_own(target: str, at: str) -> None:
    if target in TARGETS:
        raise UserError(f"`{at}._target_`: {target!r} is called `{TARGETS[target]}` now.")
    parts = target.split(".")
    if len(parts) != 3 or parts[1] not in SUBPACKAGES:
        raise UserError(
            f"`{at}._target_`: {target!r} is not on the list of what may be built. Of ours that is what a package "
            f"exports, as `{PACKAGE}.<package>.<Name>`; the packages are {listed(SUBPACKAGES)}."
        )
    exported = importlib.import_module(f"{PACKAGE}.{parts[1]}").__all__
    if parts[2] not in exported:
        near = did_you_mean(parts[2], exported)
        raise UserError(f"`{at}._target_`: `{target}` does not exist.{near} There are: {listed(exported)}.")


def check_chosen(config: Node) -> None:
    """See that the network and the data of a run say what is built.

    Raises:
        UserError: A file without `_target_`.
    """
    for section in ("data", "model"):
        _named(config.get(section) or {}, section)


def check_sections(config: Node, *, trust: Sequence[str] = ()) -> None:
    """Check everything that a run builds, before the first part of it is built.

    Raises:
        UserError: See `build`.
    """
    check(config["data"], at="data", trust=trust)
    for section in (*_TASK_SECTIONS, "task", "trainer", "callbacks", "logger"):
        check(config.get(section), at=section, trust=trust)


def build_datamodule(config: Node, *, trust: Sequence[str] = ()) -> LightningDataModule:
    """Build `data`.

    Raises:
        UserError: See `build`.
    """
    datamodule: LightningDataModule = build(config, at="data", trust=trust)
    size = getattr(datamodule, "batch_size", None)
    known = {fact: config[fact] for fact in FACTS if fact in config}
    # A data module of another package may lack attributes that we read: they come from the configuration.
    for name, value in (known | {"class_names": (), "eval_batch_size": size if isinstance(size, int) else 1}).items():
        if not hasattr(datamodule, name):
            setattr(datamodule, name, value)
    return adapt(datamodule)


def build_network(config: Node, *, trust: Sequence[str] = ()) -> Any:
    """Build `model`; a network that does not know what images it takes is told: it is asked when it is packed.

    Args:
        config: The sections `model` and `data`.
        trust: See `build`.

    Raises:
        UserError: See `build`.
    """
    network = build(config.get("model") or {}, at="model", trust=trust)
    data = config.get("data") or {}
    if data.get("in_channels") is not None and not hasattr(network, "in_channels"):
        network.in_channels = data["in_channels"]
    if data.get("image_size") is not None and not hasattr(network, "image_size"):
        network.image_size = plain_size(data["image_size"])
    return network


def build_task(
    config: Node, *, trust: Sequence[str] = (), read: Callable[[str], Any] | None = None
) -> ClassificationTask:
    """Build the task with its network, optimizer, learning-rate scheduler and distiller, once all are checked.

    Args:
        config: The whole configuration, as plain containers.
        trust: See `build`.
        read: Returns the network of a checkpoint of ours, for teachers; called when a teacher is used.

    Raises:
        UserError: See `build`.
    """
    for section in (*_TASK_SECTIONS, "task"):
        check(config.get(section), at=section, trust=trust)
    parts: dict[str, Any] = {"backbone": build_network(config, trust=trust)}
    for section, argument in _TASK_SECTIONS.items():
        if section != "model" and config.get(section):
            parts[argument] = build(_with_reader(config[section], read), at=section, trust=trust)
    task: ClassificationTask = call(config["task"], parts, at="task", trust=trust)
    return task


def _with_reader(node: Any, read: Callable[[str], Any] | None) -> Any:
    """Pass `read` to the teachers of a node that come from checkpoints."""
    if not isinstance(node, Mapping):
        return node
    own = {"load": read} if node.get("_target_") == _CHECKPOINT_TEACHER else {}
    return {key: _with_reader(value, read) for key, value in node.items()} | own


def build_all(nodes: Node | None, *, at: str, trust: Sequence[str] = ()) -> list[Any]:
    """Build the objects of a section that holds one node a key, such as `callbacks`; null leaves one out."""
    return [build(node, at=f"{at}.{key}", trust=trust) for key, node in (nodes or {}).items() if node is not None]


def call(node: Node, parts: Mapping[str, Any], *, at: str, trust: Sequence[str] = ()) -> Any:
    """Build the object of a node from its values and from parts that are objects already."""
    function = build({**node, "_partial_": True}, at=at, trust=trust)
    refusals = (MisconfigurationException, ValueError, TypeError, RuntimeError, ModuleNotFoundError)
    with as_user_error(f"`{at}`: ", refusals):
        return function(**parts)


def _target_nodes(node: Any, at: str) -> Iterator[tuple[Node, str]]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node, at
        for key, value in node.items():
            yield from _target_nodes(value, f"{at}.{key}")
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _target_nodes(value, f"{at}[{index}]")


def _builder(target: Callable[..., Any], arguments: Node, at: str) -> tuple[Callable[..., Any], Node]:
    # Registries take any keyword: hold the arguments against what the name stands for.
    signature_of = _REGISTRIES.get(target)
    if signature_of is None or "name" not in arguments:
        return target, arguments
    with as_user_error(f"`{at}.name`: "):
        function = _Signature(arguments["name"], signature_of(arguments["name"]))
    return function, {key: value for key, value in arguments.items() if key != "name"}


_REGISTRIES: dict[Callable[..., Any], Callable[[str], inspect.Signature]] = {
    registry.create_backbone: registry.backbone_signature,
    factory.binarizer_factory: factory.binarizer_signature,
}


class _Signature:
    """A name with a signature; never called."""

    def __init__(self, name: str, signature: inspect.Signature) -> None:
        self.__name__ = name
        self.__signature__ = signature

    def __call__(self) -> None:
        raise TypeError("Only the signature is of use.")


def _import(target: str, at: str) -> Any:
    parts = target.split(".")
    try:
        found: Any = importlib.import_module(parts[0])
    except ModuleNotFoundError as error:
        raise UserError(f"`{at}._target_`: there is no package `{parts[0]}` ({error}).") from error
    for index, part in enumerate(parts[1:], start=2):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            name = ".".join(parts[:index])
            try:
                found = importlib.import_module(name)
            except ModuleNotFoundError as missing:
                if missing.name != name and not name.startswith(f"{missing.name}."):
                    raise UserError(f"`{at}._target_`: {target!r} needs `{missing.name}`: {missing}") from error
                near = did_you_mean(part, dir(found))
                raise UserError(f"`{at}._target_`: `{name}` does not exist.{near}") from error
    return found
