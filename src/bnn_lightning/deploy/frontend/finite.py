"""NaN is no sign and no number: packing, files and images that hold it are refused by name."""

import math

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnn_lightning.deploy.frontend.torch_fallback import plain
from bnn_lightning.deploy.ir.graph import Graph
from bnn_lightning.utils.text import number_of


def refuse_nan(network: nn.Module) -> None:
    """Refuse a network with NaN in a parameter or a buffer, or with a batch norm that computes one.

    Raises:
        ValueError: Names the tensor.

    Example:
        >>> refuse_nan(nn.PReLU(init=float("nan")))
        Traceback (most recent call last):
        ValueError: `weight` holds NaN: a packed network takes none. Clean the checkpoint, or train again.
    """
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise ValueError(f"`{name}` holds NaN: a packed network takes none. Clean the checkpoint, or train again.")
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and module.running_var is not None:
            least = (module.running_var + module.eps).min()
            if not bool(least > 0):
                raise ValueError(
                    f"`{name}.running_var` holds {least - module.eps:g}: with `eps` a variance must be above 0. "
                    "Clean the checkpoint, or train again."
                )


def refuse_nan_in_graph(graph: Graph) -> None:
    """Refuse a graph with NaN in a constant.

    Raises:
        ValueError: Names the tensor.
    """
    for constant in graph.constants:
        if constant.dtype == "f32" and np.isnan(constant.array).any():
            raise ValueError(f"`{constant.name}` holds NaN.")


def check_images(images: Tensor) -> None:
    """Refuse images with NaN or infinite values, which kernels would take for signs.

    Raises:
        ValueError: Says how many, and in which image the first one is.

    Example:
        >>> import torch
        >>> check_images(torch.tensor([[0.5, float("nan")]]))
        Traceback (most recent call last):
        ValueError: Images must be finite, got 1 value that is NaN or infinite, the first in image 0.
    """
    if not images.is_floating_point() or images.device.type == "meta" or not plain(images):
        return
    images = images.detach()
    if math.isfinite(images.sum().item()):  # one pass: a NaN stays, an infinite value too
        return
    odd = (~images.isfinite()).nonzero()
    if len(odd):
        values = f"{number_of(len(odd), 'value')} that {'are' if len(odd) > 1 else 'is'}"
        raise ValueError(f"Images must be finite, got {values} NaN or infinite, the first in image {int(odd[0, 0])}.")
