"""NaN is no sign and no number: packing, files and images that hold it are refused by name."""

import math
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnn_lightning.deploy.format.container import Container
from bnn_lightning.deploy.frontend.torch_fallback import plain


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


def refuse_nan_in_file(container: Container) -> None:
    """Refuse a file with NaN in a tensor.

    Raises:
        ValueError: Names the tensor.
    """
    for index, entry in enumerate(container.entries):
        if entry.dtype == "f32" and np.isnan(container.raw(index)).any():
            raise ValueError(f"`{entry.name}` holds NaN.")


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
    if bool(images.sum().isfinite()):  # one pass: a NaN stays, an infinite value too
        return
    odd = (~images.isfinite()).nonzero()
    if len(odd):
        values = f"{len(odd)} value{'s' * (len(odd) > 1)} that {'are' if len(odd) > 1 else 'is'}"
        raise ValueError(f"Images must be finite, got {values} NaN or infinite, the first in image {int(odd[0, 0])}.")


def to_json(tree: Any) -> Any:
    """Return plain values with floats that JSON does not have, such as a configuration's `.inf`, as objects.

    Example:
        >>> to_json({"clip": float("inf")}), from_json({"clip": {"float": "inf"}})
        ({'clip': {'float': 'inf'}}, {'clip': inf})
    """
    match tree:
        case dict():
            return {key: to_json(value) for key, value in tree.items()}
        case list() | tuple():
            return [to_json(value) for value in tree]
        case float() if not math.isfinite(tree):
            return {"float": repr(tree)}
    return tree


def from_json(tree: Any) -> Any:
    """Undo `to_json`."""
    match tree:
        case {"float": "inf" | "-inf" | "nan" as number} if len(tree) == 1:
            return float(number)
        case dict():
            return {key: from_json(value) for key, value in tree.items()}
        case list():
            return [from_json(value) for value in tree]
    return tree
