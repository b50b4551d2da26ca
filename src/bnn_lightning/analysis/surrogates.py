"""Value and surrogate gradient of every binarizer, also in the course of training."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bnn_lightning.binarizers.base import AnnealedBinarizer, Binarizer, WeightBinarizer
from bnn_lightning.binarizers.factory import binarizer_factory, list_binarizers
from bnn_lightning.utils.checks import check_positive

PROGRESSES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Surrogate:
    """A binarizer's value and gradient over its input.

    Attributes:
        binarizer: Its name.
        of: "inputs" or "weights"; of weights the input is the latent weight.
        progress: Progress of training, or None where the binarizer does not follow it.
        x: Inputs, (N,).
        value: Output, (N,).
        gradient: Derivative of the value by the input, as training takes it, (N,).
    """

    binarizer: str
    of: str
    progress: float | None
    x: Tensor
    value: Tensor
    gradient: Tensor


def surrogates_of(
    names: Sequence[str] | None = None,
    *,
    progresses: Sequence[float] = PROGRESSES,
    points: int = 401,
    limit: float = 2.0,
) -> list[Surrogate]:
    """Compute value and gradient of binarizers with their default options.

    Args:
        names: Names of `list_binarizers()`; None takes all.
        progresses: For those that follow training.
        points: Inputs, an odd number for one of them to be 0.
        limit: Inputs lie between -limit and limit.

    Returns:
        One entry a binarizer and progress.

    Raises:
        ValueError: An unknown name, fewer than 2 points, a limit that is not positive, or no progress.

    Example:
        >>> (found,) = surrogates_of(["ApproxSign"], points=5)
        >>> found.value.tolist(), found.gradient.tolist()
        ([-1.0, -1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 2.0, 0.0, 0.0])
    """
    if points < 2:
        raise ValueError(f"`points` must be at least 2, got {points}.")
    check_positive("limit", limit)
    if not progresses:
        raise ValueError("`progress` must be a list of at least one share of training, such as [0.0,1.0], got [].")
    found = []
    for name in list_binarizers() if names is None else names:
        binarizer = binarizer_factory(name)(1).eval()
        steps: Sequence[float | None] = progresses if isinstance(binarizer, AnnealedBinarizer) else (None,)
        for progress in steps:
            if progress is not None and isinstance(binarizer, AnnealedBinarizer):
                binarizer.set_progress(progress)
            x = torch.linspace(-limit, limit, points)
            found.append(_surrogate(name, binarizer, progress, x))
    return found


def _surrogate(name: str, binarizer: Binarizer, progress: float | None, x: Tensor) -> Surrogate:
    leaf = x.clone().requires_grad_()
    of_weights = isinstance(binarizer, WeightBinarizer)
    with torch.enable_grad():
        value = binarizer.sign(leaf) if isinstance(binarizer, WeightBinarizer) else binarizer(leaf.view(-1, 1)).view(-1)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return Surrogate(name, "weights" if of_weights else "inputs", progress, x, value.detach(), gradient)


def surrogate_rows(found: Sequence[Surrogate]) -> tuple[list[str], list[list[str | float | None]]]:
    """Return the table of a figure of surrogates, header and rows."""
    header = ["binarizer", "of", "progress", "x", "value", "gradient"]
    rows: list[list[str | float | None]] = [
        [one.binarizer, one.of, one.progress, *values]
        for one in found
        for values in zip(one.x.tolist(), one.value.tolist(), one.gradient.tolist(), strict=True)
    ]
    return header, rows
