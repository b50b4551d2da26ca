"""Loggers of Lightning that continue when a run is resumed."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {"csv_file": ["CSVLogger"]})
