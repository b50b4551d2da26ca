"""Binary feature maps: inputs of binary layers before and after the sign."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bnn_lightning.layers.module_utils import binary_layers, evaluation


@dataclass(frozen=True)
class LayerMaps:
    """The input of a binary layer, for one image.

    Attributes:
        real: Before its binarizer, (C, H, W).
        signs: After it, (C, H, W).
    """

    real: Tensor
    signs: Tensor


@torch.no_grad()
def record_maps(network: nn.Module, image: Tensor, layers: Sequence[str] | None = None) -> dict[str, LayerMaps]:
    """Record the inputs of binary layers for an image, in evaluation mode.

    Args:
        network: Takes images (N, C, H, W); its mode is put back.
        image: (C, H, W) in [0, 1], of any size that the network can work with.
        layers: Names of binary layers; None takes all whose inputs are binary maps.

    Returns:
        Real and binary maps by layer, in module order.

    Raises:
        ValueError: No such layer, one whose input is no binary map, or an image that the network cannot work with.

    Example:
        >>> from bnn_lightning.models import create_backbone
        >>> network = create_backbone("resnet20", num_classes=10, image_size=32)
        >>> maps = record_maps(network, torch.rand(3, 40, 24), ["layer2.0.conv1"])
        >>> maps["layer2.0.conv1"].signs.shape, sorted(maps["layer2.0.conv1"].signs.unique().tolist())
        (torch.Size([16, 40, 24]), [-1.0, 1.0])
    """
    with_signs = {name: layer for name, layer in binary_layers(network).items() if layer.input_binarizer is not None}
    for name in layers or ():
        if name not in with_signs:
            raise ValueError(f"`layers`: `{name}` is no layer with binary inputs. There are: {', '.join(with_signs)}.")
    found: dict[str, LayerMaps] = {}
    with evaluation(network), ExitStack() as stack:
        for name, layer in with_signs.items():
            if layers is None or name in layers:
                assert layer.input_binarizer is not None
                stack.callback(layer.input_binarizer.register_forward_hook(_noting(name, found)).remove)
        try:
            network(image[None])
        except RuntimeError as error:
            size = "×".join(map(str, image.shape[1:]))
            raise ValueError(f"The network cannot work with an image of {size}: {error}") from error
    flat = [name for name, one in found.items() if one.signs.dim() != 3]
    if flat and layers is not None:
        raise ValueError(f"`layers`: the input of `{flat[0]}` is no map, but {tuple(found[flat[0]].signs.shape)}.")
    kept = {name: found[name] for name in with_signs if name in found and name not in flat}
    if not kept:
        raise ValueError(f"{type(network).__name__} has no binary layer whose input is a binary map.")
    return kept


def _noting(name: str, found: dict[str, LayerMaps]) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        # A copy: activations in place would change it.
        found[name] = LayerMaps(args[0][0].clone(), output[0].clone())

    return hook


def spread_over(names: Sequence[str], number: int) -> list[str]:
    """Return at most `number` of the names, spread evenly from the first to the last.

    Example:
        >>> spread_over(["a", "b", "c", "d", "e"], 3)
        ['a', 'c', 'e']
    """
    if len(names) <= number:
        return list(names)
    if number == 1:
        return [names[0]]
    return [names[round(index * (len(names) - 1) / (number - 1))] for index in range(number)]
