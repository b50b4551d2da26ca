"""The resolved config, in every checkpoint."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

CONFIG_KEY = "bnn_lightning_config"


class EmbedConfig(Callback):
    """Write a config into every checkpoint, under "bnn_lightning_config".

    Also into those with weights only, for which Lightning asks no callback but the module: its
    `checkpoint_extras` carries the config.

    Args:
        config: Dictionaries, lists, strings, numbers, booleans and None, so that `weights_only=True` loads them.

    Raises:
        TypeError: Anything else; the message says where.

    Example:
        >>> EmbedConfig({"model": {"width": 64}}).config
        {'model': {'width': 64}}
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        check_plain(config, "config")
        self.config = config

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        extras = getattr(pl_module, "checkpoint_extras", None)
        if isinstance(extras, dict):
            extras[CONFIG_KEY] = self.config

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[CONFIG_KEY] = self.config


def check_plain(value: Any, where: str) -> None:
    """Refuse what is not made of plain containers and scalars (types exactly: a `DictConfig` is not plain).

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
