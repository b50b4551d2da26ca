"""Loading of checkpoints: from a file to a task, by the configuration that lies in it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bnn_lightning.callbacks.embed_config import CLASSES_KEY as CLASSES_KEY
from bnn_lightning.callbacks.embed_config import CONFIG_KEY as CONFIG_KEY
from bnn_lightning.models.float_teachers import rebuilding
from bnn_lightning.models.keras_file import is_keras_file
from bnn_lightning.models.published_file import differences, read_file, why_unusable
from bnn_lightning.tasks.classification import ClassificationTask
from bnn_lightning.utils.text import some
from bnn_lightning.workflows.allowed import is_library
from bnn_lightning.workflows.building import ForeignTargetError, build_network, build_task
from bnn_lightning.workflows.errors import UntrustedFileError, UserError, as_user_error
from bnn_lightning.workflows.old_names import is_resumable, with_new_names
from bnn_lightning.workflows.weights_file import is_weights_file, read_weights
from bnn_lightning.zoo.files import is_name, weights_file
from bnn_lightning.zoo.receipts import ZooError

# Whether settings in the file had other names than today's, so that a run cannot resume from it.
RENAMED_KEY = "bnn_lightning_renamed"
# Sums of the running epoch, a number a metric: versions of ours count more of them as they go.
_SUMS = "train_means.sums"
# Sections of a configuration that lie within each other; a damaged one may hold itself.
_DEEPEST = 32

State = Mapping[str, Tensor]


def load_task(path: str | Path, *, trust: Sequence[str] = ()) -> ClassificationTask:
    """Rebuild a task from a checkpoint alone: its network, its distiller and their weights, on the CPU.

    Args:
        path: A checkpoint that `bnn train` wrote, or a run's folder: its final weights, or the last ones where the run
            is not over; or a name of the zoo such as "zoo:mnist_mlp".
        trust: Packages of your own whose classes the checkpoint may name. Its configuration says what is called, so
            that a checkpoint from elsewhere can call only what the packages of `bnn_lightning` export, and some
            classes of torch and Lightning.

    Returns:
        The task, in evaluation mode.

    Raises:
        UserError: No such file, a truncated one, one that is not ours, or one whose tensors or targets do not fit.
    """
    path = network_file(path)
    checkpoint = read_checkpoint(path)
    read = partial(load_backbone, trust=trust)
    with explained(path), rebuilding():
        task = build_task(embedded_config(checkpoint, path), trust=trust, read=read)
    check_fits(task, checkpoint["state_dict"], path)
    task.load_state_dict(checkpoint["state_dict"])
    return task.eval()


def load_backbone(path: str | Path, *, trust: Sequence[str] = ()) -> nn.Module:
    """Rebuild the network of a run of ours, without its optimizer and its distiller.

    Args:
        path: A checkpoint, or a run's folder: its final weights, or `last.ckpt` while the run is not over.
        trust: See `load_task`.

    Returns:
        The network, in evaluation mode.

    Raises:
        UserError: See `load_task`.
    """
    path = network_file(path)
    checkpoint = read_checkpoint(path)
    with explained(path), rebuilding():
        backbone: nn.Module = build_network(embedded_config(checkpoint, path), trust=trust)
    state = backbone_state(checkpoint)
    check_fits(backbone, state, path)
    backbone.load_state_dict(state)
    return backbone.eval()


@contextmanager
def explained(path: str | Path) -> Iterator[None]:
    """Name `trust` in errors of a file whose configuration names classes of the user's own package.

    Args:
        path: The file, for the message.

    Raises:
        UserError: The package is not trusted.
    """
    try:
        yield
    except ForeignTargetError as error:
        refused = f"`{path}`: `{error.at}._target_`: {error.target!r} is not on the list of what may be built."
        if is_library(error.package):
            raise UserError(refused) from error
        remedy = f'bnn_lightning.load_task("{path}", trust=["{error.package}"])'
        raise UntrustedFileError(refused, error.package, remedy) from error


def network_file(path: str | Path) -> Path:
    """Return the file of a path that may be a run's folder (final weights, or else the last ones), or a zoo's name.

    Raises:
        UserError: The zoo has no such network, or its file could not be had.
    """
    if is_name(path):
        with as_user_error(of=(ZooError,)):
            return weights_file(path)
    path = Path(path)
    files = [folder / name for folder in (path / "checkpoints", path) for name in ("final.ckpt", "last.ckpt")]
    return next((file for file in files if file.is_file()), path) if path.is_dir() else path


def backbone_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of the network in a checkpoint of ours, by their names in the network."""
    tensors = checkpoint["state_dict"].items()
    return {name.removeprefix("backbone."): value for name, value in tensors if name.startswith("backbone.")}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a file into CPU memory, tensors and plain values only; settings have the names of today.

    A file of Keras, which `load_published` reads for a network, is an empty one.

    Raises:
        UserError: It cannot be read as a checkpoint.
    """
    if is_keras_file(Path(path)):
        return {}
    path = Path(path)
    if path.is_dir():
        raise UserError(f"`{path}` is a folder without final.ckpt and last.ckpt: give a run, or the file itself.")
    if not path.is_file():
        names = sorted(file.name for file in path.parent.iterdir()) if path.parent.is_dir() else []
        near = f" `{path.parent}` has: {some(names) or 'nothing'}." if path.parent.is_dir() else ""
        raise UserError(f"`{path}`: no such file.{near}")
    with as_user_error():
        checkpoint = read_weights(path) if is_weights_file(path) else read_file(path)
    config = checkpoint.get(CONFIG_KEY)
    if isinstance(config, dict):
        _check_plain(config, str(path))
        checkpoint[CONFIG_KEY] = with_new_names(config)
        checkpoint[RENAMED_KEY] = not is_resumable(config)
    return checkpoint


def is_ours(checkpoint: Mapping[str, Any]) -> bool:
    """Whether `bnn train` wrote the checkpoint."""
    state = checkpoint.get("state_dict")
    return CONFIG_KEY in checkpoint and isinstance(state, Mapping) and all(isinstance(name, str) for name in state)


def embedded_classes(checkpoint: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes of the training data; none where the checkpoint does not say them."""
    names = checkpoint.get(CLASSES_KEY)
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def embedded_config(checkpoint: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """Return the configuration that lies in a checkpoint of ours.

    Raises:
        UserError: There is none, or it is not in the form that we write.
    """
    if not is_ours(checkpoint):
        kind = "of Lightning, without our configuration" if "pytorch-lightning_version" in checkpoint else "not ours"
        raise UserError(
            f"`{path}` is a checkpoint {kind}. For a published file say what it is: "
            f"bnn evaluate ckpt={path} model=resnet20 data=cifar10"
        )
    config = checkpoint[CONFIG_KEY]
    if not isinstance(config, dict) or not all(isinstance(config.get(key), dict) for key in ("model", "task", "data")):
        raise UserError(f"`{path}`: its configuration (`{CONFIG_KEY}`) is damaged.")
    _check_plain(config, str(path))
    name = config["model"].get("name", "")
    if not isinstance(name, str):
        raise UserError(f"`{path}`: its configuration is damaged: `model.name` must be a name, got {name!r}.")
    return config


def check_fits(module: nn.Module, state: State, path: str | Path) -> None:
    """Compare names and shapes of a state dict with those of a module.

    Raises:
        UserError: They differ; the message says which tensors.
    """
    wanted = module.state_dict()
    for name, value in state.items():
        if (reason := why_unusable(value)) is not None:
            raise UserError(f"`{path}` is damaged: its `{name}` is {reason}.")
        if name in wanted and value.is_floating_point() != wanted[name].is_floating_point():
            raise UserError(f"`{path}` is damaged: its `{name}` is of {value.dtype}, not of {wanted[name].dtype}.")
    missing = [name for name in wanted if name not in state]
    unknown = [name for name in state if name not in wanted]
    compared = {name: tensor for name, tensor in wanted.items() if name != _SUMS}
    found = differences(compared, state, missing=missing, unknown=unknown)
    if found:
        raise UserError(f"`{path}` is a checkpoint of another network. {' '.join(found)}")


def _check_plain(node: Any, path: str, depth: int = 0) -> None:
    """Refuse a configuration that we cannot have written, in a file from elsewhere."""
    if depth > _DEEPEST:
        raise UserError(f"`{path}`: its configuration is damaged: more than {_DEEPEST} sections lie within each other.")
    if isinstance(node, Mapping):
        for key, value in node.items():
            if not isinstance(key, str):
                raise UserError(f"`{path}`: its configuration is damaged: a key must be a name, got {key!r}.")
            _check_plain(value, path, depth + 1)
    elif isinstance(node, list | tuple):
        for value in node:
            _check_plain(value, path, depth + 1)
    elif isinstance(node, str) and "${" in node:
        # We write resolved values. `${oc.env:...}` would read this machine's environment.
        raise UserError(f"`{path}`: its configuration holds an interpolation ({node!r}), which we never write.")
    elif node is not None and not isinstance(node, str | int | float):
        raise UserError(f"`{path}`: its configuration is damaged: it holds a {type(node).__name__}.")
