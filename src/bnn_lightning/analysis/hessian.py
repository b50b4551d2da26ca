"""The largest eigenvalue of a Hessian, by power iteration."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Eigenvalue:
    """Result of a power iteration.

    Attributes:
        value: The largest eigenvalue.
        iterations: Products with the Hessian.
        change: Of the value in the last iteration, relative.
    """

    value: float
    iterations: int
    change: float


def largest_eigenvalue(
    losses: Callable[[], Iterator[Tensor]],
    parameters: Sequence[Tensor],
    *,
    scales: Sequence[Tensor] | None = None,
    iterations: int = 50,
    tolerance: float = 1e-3,
    seed: int = 1,
) -> Eigenvalue:
    """Find the largest eigenvalue of the Hessian of a loss, as automatic differentiation sees it.

    For a binary network this is the surrogate graph's Hessian: the derivative of the gradient that training follows, in
    which the sign has its surrogate for a derivative. The true loss is a step function of the latent weights, and has
    none; a difference of true losses at a distance is `curvature`. It is symmetric, except where a PReLU's input is
    exactly 0, as sums of signs without a shift may be: torch's derivatives take different sides there. What is found
    is then the quotient v'Hv at the direction in which the iteration ended.

    Args:
        losses: Yields scalars whose sum is the loss, such as one a batch; called once a product.
        parameters: What it is differentiated by.
        scales: By which the parameters are measured, one tensor each that multiplies with it: the Hessian is that of
            `loss(parameters + scales * step)` by the step. With the norms of the filters it does not depend on their
            scale, as in filter-normalized directions.
        iterations: At most so many products; twice as many where the eigenvalue of largest magnitude is negative.
        tolerance: Ends where the value changes by less, relative.
        seed: Of the first vector.

    Raises:
        ValueError: A number out of its range.

    Example:
        >>> x = torch.zeros(2, requires_grad=True)
        >>> round(largest_eigenvalue(lambda: iter([x[0] ** 2 - 3 * x[1] ** 2]), [x], iterations=200).value, 3)
        2.0

    References:
        Power iteration on Hessian-vector products as in Yao et al., PyHessian, 2020, algorithm 2.
    """
    if iterations < 1:
        raise ValueError(f"`iterations` must be 1 or more, got {iterations}.")
    generator = torch.Generator().manual_seed(seed)
    start = [torch.randn(p.shape, generator=generator).to(p) for p in parameters]

    def product(vector: list[Tensor]) -> list[Tensor]:
        return hessian_product(losses, parameters, vector, scales)

    found = _power_iteration(product, start, iterations, tolerance)
    if found.value >= 0:
        return found
    # The dominant one is negative: that of H - found, shifted back, is the largest.
    shift = found.value

    def shifted(vector: list[Tensor]) -> list[Tensor]:
        return [h - shift * v for h, v in zip(product(vector), vector, strict=True)]

    again = _power_iteration(shifted, start, iterations, tolerance)
    return Eigenvalue(again.value + shift, found.iterations + again.iterations, again.change)


def hessian_product(
    losses: Callable[[], Iterator[Tensor]],
    parameters: Sequence[Tensor],
    vector: Sequence[Tensor],
    scales: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Return the product of a Hessian with a vector; arguments as of `largest_eigenvalue`."""
    inner = vector if scales is None else [s * v for s, v in zip(scales, vector, strict=True)]
    total = [torch.zeros_like(p) for p in parameters]
    for loss in losses():
        gradients = torch.autograd.grad(loss, list(parameters), create_graph=True, materialize_grads=True)
        dot = sum(((g * v).sum() for g, v in zip(gradients, inner, strict=True)), start=torch.zeros(()))
        if dot.requires_grad:
            for t, h in zip(total, torch.autograd.grad(dot, list(parameters), materialize_grads=True), strict=True):
                t.add_(h)
    return total if scales is None else [s * t for s, t in zip(scales, total, strict=True)]


def cross_entropies(
    model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int
) -> Callable[[], Iterator[Tensor]]:
    """Return what yields a network's mean cross-entropy, a part for each batch."""

    def losses() -> Iterator[Tensor]:
        for part, wanted in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
            yield F.cross_entropy(model(part), wanted, reduction="sum") / len(labels)

    return losses


def _power_iteration(
    product: Callable[[list[Tensor]], list[Tensor]], start: Sequence[Tensor], iterations: int, tolerance: float
) -> Eigenvalue:
    vector, value, change = _unit(start), 0.0, float("inf")
    for iteration in range(1, iterations + 1):
        mapped = product(vector)
        before, value = value, float(sum((v * m).sum() for v, m in zip(vector, mapped, strict=True)))
        change = abs(value - before) / max(abs(value), torch.finfo(torch.float32).tiny)
        if iteration > 1 and change < tolerance:
            break
        if not any(bool(m.any()) for m in mapped):
            return Eigenvalue(0.0, iteration, 0.0)
        vector = _unit(mapped)
    return Eigenvalue(value, iteration, change)


def _unit(vector: Sequence[Tensor]) -> list[Tensor]:
    norm = torch.sqrt(torch.stack([(v.double() ** 2).sum() for v in vector]).sum())
    return [v / norm.to(v) for v in vector]
