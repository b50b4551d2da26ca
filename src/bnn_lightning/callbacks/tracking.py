"""Configuration and run ids for loggers."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger, MLFlowLogger, WandbLogger


class Tracking(Callback):
    """Log the configuration, and keep the ids of the loggers' runs in checkpoints, so that a resumed run is the same.

    Args:
        config: Plain containers.
        resumed: Whether the loggers go on with a run that has a configuration.
    """

    def __init__(self, config: dict[str, Any], *, resumed: bool = False) -> None:
        super().__init__()
        self.config, self.resumed = config, resumed
        self._loggers: list[Logger] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._loggers = trainer.loggers
        if stage != "fit":
            return
        for logger in trainer.loggers:
            if self.resumed and isinstance(logger, MLFlowLogger):
                continue  # its parameters cannot be changed, and epochs may be others
            logger.log_hyperparams(self.config)

    def state_dict(self) -> dict[str, Any]:
        ids = {
            name: run_id(logger)
            for name, kind in _KINDS.items()
            for logger in self._loggers
            if isinstance(logger, kind)
        }
        return {name: value for name, value in ids.items() if value is not None}


_KINDS: dict[str, type[Logger]] = {"wandb": WandbLogger, "mlflow": MLFlowLogger}


def run_id(logger: Logger) -> str | None:
    """Return the id of a run at a logging service; None on ranks that do not log."""
    found = logger.run_id if isinstance(logger, MLFlowLogger) else logger.version
    return found if isinstance(found, str) else None
