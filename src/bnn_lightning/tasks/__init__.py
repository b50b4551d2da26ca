"""LightningModules: wiring only."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__, {"classification": ["ClassificationTask"], "sharding": ["FullyShardedStrategy"]}
)
