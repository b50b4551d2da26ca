"""Largest eigenvalue of a Hessian, by the Lanczos iteration."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from bnn_lightning.utils.optional import require

# Lanczos vectors that are kept: as many copies of the parameters.
_VECTORS = 10


@dataclass(frozen=True)
class Eigenvalue:
    """Largest eigenvalue of a Hessian.

    Attributes:
        value: The eigenvalue; NaN where the iteration did not converge.
        products: Products with the Hessian that it took.
        residual: |H v - value v| / |value| of its unit eigenvector v; infinite where the iteration did not converge.
    """

    value: float
    products: int
    residual: float


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
    exactly 0, as sums of signs without a shift may be: torch's derivatives take different sides there, and `residual`
    says by how much the result fails.

    Args:
        losses: Yields scalars whose sum is the loss, such as one a batch; called once a product.
        parameters: Tensors to differentiate by, two numbers or more.
        scales: By which the parameters are measured, one tensor each that multiplies with it: the Hessian is that of
            `loss(parameters + scales * step)` by the step. With the norms of the filters it does not depend on their
            scale, as in filter-normalized directions.
        iterations: Restarts of the Lanczos iteration, at most; each takes up to 10 products.
        tolerance: Relative accuracy of the eigenvalue.
        seed: Seed of the first vector.

    Raises:
        ValueError: A number out of its range.
        ModuleNotFoundError: SciPy is not installed.

    Example:
        >>> x = torch.zeros(2, requires_grad=True)
        >>> round(largest_eigenvalue(lambda: iter([x[0] ** 2 - 3 * x[1] ** 2]), [x]).value, 3)
        2.0

    References:
        ARPACK's implicitly restarted Lanczos method (`scipy.sparse.linalg.eigsh`) on Hessian-vector products.
    """
    if iterations < 1:
        raise ValueError(f"`iterations` must be 1 or more, got {iterations}.")
    linalg = require("scipy.sparse.linalg", extra="visualize")
    generator = torch.Generator().manual_seed(seed)
    start = torch.cat([torch.randn(p.shape, generator=generator).flatten() for p in parameters])
    count = 0

    def product(vector: NDArray[Any]) -> NDArray[Any]:
        nonlocal count
        count += 1
        flat = torch.from_numpy(np.ascontiguousarray(vector)).reshape(-1)
        parts = [
            part.view_as(p).to(p)
            for part, p in zip(torch.split(flat, [p.numel() for p in parameters]), parameters, strict=True)
        ]
        mapped = hessian_product(losses, parameters, parts, scales)
        return torch.cat([part.detach().flatten() for part in mapped]).cpu().numpy()

    first = start.to(parameters[0].dtype).numpy()
    if not product(first).any():
        return Eigenvalue(0.0, count, 0.0)
    operator = linalg.LinearOperator((len(first), len(first)), matvec=product, dtype=first.dtype)
    try:
        values, vectors = linalg.eigsh(
            operator, k=1, which="LA", v0=first, ncv=min(_VECTORS, len(first)), maxiter=iterations, tol=tolerance
        )
    except linalg.ArpackNoConvergence:
        return Eigenvalue(math.nan, count, math.inf)
    value, vector = float(values[0]), vectors[:, 0]
    rest = float(np.linalg.norm(product(vector) - value * vector))
    return Eigenvalue(value, count, rest / max(abs(value), float(np.finfo(first.dtype).tiny)))


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
    """Return a function that yields a network's mean cross-entropy, a part for each batch."""

    def losses() -> Iterator[Tensor]:
        for part, wanted in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
            yield F.cross_entropy(model(part), wanted, reduction="sum") / len(labels)

    return losses
