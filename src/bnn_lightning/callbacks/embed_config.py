"""Resolved configuration in every checkpoint."""

from collections.abc import Sequence
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

CONFIG_KEY = "bnn_lightning_config"
CLASSES_KEY = "bnn_lightning_class_names"


class EmbedConfig(Callback):
    """Write a config into every checkpoint, under "bnn_lightning_config", and names under "bnn_lightning_class_names".

    Also into those with weights only, for which Lightning asks no callback but the module: its
    `checkpoint_extras` carries the config.

    Args:
        config: Dictionaries, lists, strings, numbers, booleans and None, so that `weights_only=True` loads them.
        class_names: Names of the classes, in the order of the labels; none where they are not known.

    Raises:
        TypeError: Anything else; the message says where.

    Example:
        >>> EmbedConfig({"model": {"width": 64}}).config
        {'model': {'width': 64}}
    """

    def __init__(self, config: dict[str, Any], class_names: Sequence[str] = ()) -> None:
        super().__init__()
        check_plain(config, "config")
        self.config, self.class_names = config, list(class_names)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        extras = getattr(pl_module, "checkpoint_extras", None)
        if isinstance(extras, dict):
            extras |= {CONFIG_KEY: self.config, CLASSES_KEY: self.class_names}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {CONFIG_KEY: self.config, CLASSES_KEY: self.class_names}


def check_plain(value: Any, where: str) -> None:
    """Refuse values that are not plain containers and scalars (types exactly: a `DictConfig` is not plain).

    Raises:
        TypeError: The value, or something within it, is of another type.
    """
    if type(value) is dict:
        for key, item in value.items():
            check_plain(item, f"{where}.{key}")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            check_plain(item, f"{where}[{index}]")
    elif value is not None and type(value) not in (str, int, float, bool):
        raise TypeError(
            f"`{where}` must be made of dict, list, str, int, float, bool and None, got {type(value).__name__}: "
            "resolve and convert the config first."
        )
