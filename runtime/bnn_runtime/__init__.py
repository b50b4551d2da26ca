"""Packed binary neural networks from numpy, without torch.

>>> import bnn_runtime
>>> with bnn_runtime.load("model.bnn") as network:  # doctest: +SKIP
...     logits = network(images)
"""

from .native import Facts, Network, RuntimeFileError, load

__version__ = "0.1.0"  # that of bnn-lightning

__all__ = ["Facts", "Network", "RuntimeFileError", "load"]
