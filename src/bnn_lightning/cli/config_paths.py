"""Location of the configuration tree, and the resolvers that its files use."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bnn_lightning.cli import published
from bnn_lightning.data.imagenet_folders import count_classes
from bnn_lightning.deploy.export.formats import help_text
from bnn_lightning.workflows.config_options import label_of, option_files

PACKAGE = "bnn_lightning.conf"


def config_path() -> str:
    """Return the place of the configuration tree in Hydra's words.

    Installed (also editable) it is the package `bnn_lightning.conf`; in a checkout on the Python path, its `conf/`.
    """
    return f"pkg://{PACKAGE}" if find_spec(PACKAGE) is not None else str(_checkout())


def config_dir() -> Path:
    """Return the folder of the configuration tree."""
    spec = find_spec(PACKAGE)
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return _checkout()


def list_options(group: str, folders: Sequence[Path] = ()) -> list[str]:
    """Return the options of a group, in the tree and in folders beside it; names with `_` in front are not options.

    Example:
        >>> list_options("strategy")
        ['auto', 'ddp', 'fsdp']
    """
    return sorted({path.stem for folder in [config_dir(), *folders] for path in option_files(folder / group)})


def _label(section: str, *, _root_: DictConfig) -> str:
    return label_of(_root_[section])


def _by_channels(channels: int, gray: Any, rgb: Any) -> Any:
    """Return the value for gray or RGB images."""
    if channels not in (1, 3):
        raise ValueError(f"`data.in_channels` of pictures must be 1 or 3, got {channels}.")
    return gray if channels == 1 else rgb


def _checkout() -> Path:
    return Path(__file__).resolve().parents[3] / "conf"


# Whoever finds the tree can compose it, in a notebook as well: its files use these resolvers.
published.register()
OmegaConf.register_new_resolver("folder_classes", lambda root: len(count_classes(root)), replace=True)
OmegaConf.register_new_resolver("by_channels", _by_channels, replace=True)
OmegaConf.register_new_resolver("label", _label, replace=True)
OmegaConf.register_new_resolver("formats", lambda: help_text().replace("\n", "\n    "), replace=True)
