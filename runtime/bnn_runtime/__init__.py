"""Packed binary neural networks from numpy, without torch.

>>> import bnn_runtime
>>> network = bnn_runtime.load("model.bnn")  # doctest: +SKIP
>>> logits = network(images)  # doctest: +SKIP
"""

from .native import Facts, Network, RuntimeFileError, load

__all__ = ["Facts", "Network", "RuntimeFileError", "load"]
