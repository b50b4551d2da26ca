"""Binary sets {a, b} of AdaBin: the sign of a shifted and scaled input, and the center and width of weights."""

import torch
from torch import Tensor

from bnn_lightning.functional.sign import approx_sign


def adabin_sign(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    r"""Binarize activations around a learnable center, in units of a learnable width.

    Value `sign((x - beta) / alpha)`; gradient of the quotient `max(2 - 2 |(x - beta) / alpha|, 0)`, which flows on to
    x, alpha and beta. The sign s stands for the value `alpha * (s + beta)`.

    Args:
        x: Any shape.
        alpha: Half of the distance of the two values, (1,).
        beta: Center, (1,).

    Returns:
        Tensor like `x`, exactly -1 or +1.

    Example:
        >>> x = torch.tensor([-2.0, 0.5, 1.0], requires_grad=True)
        >>> alpha, beta = torch.tensor([2.0]), torch.tensor([1.0], requires_grad=True)
        >>> adabin_sign(x, alpha, beta).sum().backward()
        >>> x.grad, beta.grad
        (tensor([0.0000, 0.7500, 1.0000]), tensor([-1.7500]))

    References:
        Tu et al., AdaBin, ECCV 2022: its binarized activations; the center stands as in its code, alpha (s + beta).
    """
    return approx_sign((x - beta.to(x.dtype)) * (1 / alpha).to(x.dtype))


def center_and_deviation(weight: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the mean of each output channel, and `sqrt(mean((w - mean)^2))`, with their gradients.

    A channel of equal weights has the root of the least normal number as its deviation, and no gradient of it.

    Args:
        weight: Shape (out_channels, ...).

    Returns:
        Two tensors, (out_channels,).

    Example:
        >>> center_and_deviation(torch.tensor([[1.0, 2.0, 6.0, 3.0]]))
        (tensor([3.]), tensor([1.8708]))

    References:
        Tu et al., AdaBin, ECCV 2022: its weight equalization.
    """
    flat = weight.flatten(1)
    center = flat.mean(1)
    variance = (flat - center[:, None]).square().mean(1)
    return center, variance.clamp(min=torch.finfo(variance.dtype).tiny).sqrt()
