"""Random directions in the space of a network's weights, normalized filter by filter."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from bnn_lightning.layers.module_utils import latent_weights
from bnn_lightning.utils.checks import check_choice

Direction = dict[str, Tensor]
Perturbed = Literal["weights", "binary", "all"]
Normalized = Literal["filter", "layer", "none"]


def filter_norms(name: str, weight: Tensor, *, weights: Mapping[str, Tensor]) -> Tensor:
    """Return the norms of a tensor's filters, shaped to be multiplied with it.

    A filter is what makes one output channel of a convolution or linear layer; any other tensor, a bias or the affine
    map of a batch norm, is one filter as a whole, whatever its shape.

    Args:
        name: Name of the parameter.
        weight: The parameter.
        weights: The weights of convolutions and linear layers, by name.
    """
    rows = weight.detach().flatten(1) if name in weights else weight.detach().reshape(1, -1)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms.reshape(-1, *[1] * (weight.dim() - 1)) if name in weights else norms.reshape(())


def layer_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of a network's convolutions and linear layers, by parameter name; a shared one once."""
    owned = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Linear | _ConvNd)}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in owned}


def perturbed_parameters(model: nn.Module, perturb: Perturbed = "weights") -> dict[str, nn.Parameter]:
    """Return the parameters that a direction moves.

    Args:
        model: Any network.
        perturb: "weights" are those of convolutions and linear layers, latent ones where a layer is binary; "binary"
            only the latent ones; "all" is every parameter, with biases and batch norms.

    Raises:
        ValueError: An unknown `perturb`, or there are none.
    """
    check_choice("perturb", perturb, Perturbed)
    if perturb == "all":
        found = dict(model.named_parameters())
    else:
        found = layer_weights(model) if perturb == "weights" else latent_weights(model)
    if not found:
        raise ValueError(f'`perturb`: {type(model).__name__} has no parameters of the kind "{perturb}".')
    return found


def random_direction(
    model: nn.Module, *, seed: int, perturb: Perturbed = "weights", normalize: Normalized = "filter"
) -> Direction:
    """Draw a Gaussian direction and give each filter the norm that the network's own has.

    A binary network does not change when a filter of its latent weights is scaled; nor does one with batch norm. The
    normalization removes this freedom: a step of 1 is as long as the filter, whatever its scale.

    Args:
        model: The network, at the center of the landscape.
        seed: The draw: two networks of one architecture get the same, up to their norms.
        perturb: See `perturbed_parameters`; what it leaves out does not move.
        normalize: "filter", "layer" (the norm of the whole tensor) or "none".

    Returns:
        By parameter name, tensors shaped like the parameters.

    Raises:
        ValueError: An unknown option, or nothing to move.

    Example:
        >>> direction = random_direction(nn.Linear(3, 2), seed=1)
        >>> {name: tuple(tensor.shape) for name, tensor in direction.items()}
        {'weight': (2, 3)}

    References:
        Li et al., Visualizing the Loss Landscape of Neural Nets, NeurIPS 2018, section 4: d_ij ||theta_ij|| / ||d_ij||.
    """
    check_choice("normalize", normalize, Normalized)
    weights = layer_weights(model)
    generator = torch.Generator().manual_seed(seed)
    direction = {}
    for name, parameter in perturbed_parameters(model, perturb).items():
        draw = torch.randn(parameter.shape, generator=generator).to(parameter)
        if normalize == "filter":
            draw *= filter_norms(name, parameter, weights=weights) / (
                filter_norms(name, draw, weights=weights) + torch.finfo(draw.dtype).tiny
            )
        elif normalize == "layer":
            draw *= torch.linalg.vector_norm(parameter.detach()) / torch.linalg.vector_norm(draw)
        direction[name] = draw
    return direction


@contextmanager
def shifted(
    model: nn.Module, directions: Sequence[Direction], steps: Sequence[float]
) -> Iterator[Mapping[str, nn.Parameter]]:
    """Let a network stand at `center + sum of step * direction` within the context, and put it back to the bit.

    Args:
        model: The network, at the center.
        directions: As many as `steps`.
        steps: One a direction.

    Yields:
        The parameters that moved, by name.
    """
    parameters = dict(model.named_parameters())
    moved = {name: parameters[name] for direction in directions for name in direction}
    center = {name: parameter.detach().clone() for name, parameter in moved.items()}
    try:
        with torch.no_grad():
            for direction, step in zip(directions, steps, strict=True):
                for name, tensor in direction.items():
                    moved[name].add_(tensor, alpha=step)
        yield moved
    finally:
        with torch.no_grad():
            for name, parameter in moved.items():
                parameter.copy_(center[name])
