"""Loggers of Lightning that go on where a run was stopped."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {"csv_file": ["CSVLogger"]})
