"""Eigenvalues of known quadratics, and of surrogate graphs."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnn_lightning.analysis import cross_entropies, hessian_product, largest_eigenvalue
from bnn_lightning.analysis.loss_grid import reestimated
from bnn_lightning.layers.module_utils import annealed
from bnn_lightning.models import create_backbone
from tests.small_networks import BACKBONES, small_options


def quadratic(eigenvalues: list[float]) -> tuple[Tensor, Tensor]:
    """Return a symmetric matrix with these eigenvalues, in float64, and a point."""
    torch.manual_seed(0)
    size = len(eigenvalues)
    rotation, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))
    return rotation @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ rotation.T, torch.randn(
        size, dtype=torch.float64
    ).requires_grad_()


@pytest.mark.parametrize(
    "eigenvalues, largest",
    [([5.0, 2.0, 1.0, -1.0], 5.0), ([3.0, 1.0, -7.0], 3.0), ([-1.0, -2.0, -8.0], -1.0)],
    ids=["positive", "dominant negative", "all negative"],
)
def test_largest_of_a_quadratic(eigenvalues: list[float], largest: float) -> None:
    matrix, x = quadratic(eigenvalues)
    found = largest_eigenvalue(lambda: iter([0.5 * x @ matrix @ x]), [x], iterations=500, tolerance=1e-10)
    assert found.value == pytest.approx(largest, abs=1e-4)
    assert found.residual < 1e-10


def test_parts_of_a_loss_and_scales() -> None:
    matrix, x = quadratic([5.0, 2.0, 1.0])

    def parts() -> Iterator[Tensor]:
        yield 0.2 * x @ matrix @ x
        yield 0.3 * x @ matrix @ x

    assert largest_eigenvalue(parts, [x], iterations=300, tolerance=1e-10).value == pytest.approx(5.0, abs=1e-4)
    scales = torch.tensor([2.0, 0.5, 3.0], dtype=torch.float64)
    wanted = torch.linalg.eigvalsh(torch.diag(scales) @ matrix @ torch.diag(scales))[-1].item()
    scaled = largest_eigenvalue(parts, [x], scales=[scales], iterations=300, tolerance=1e-10)
    assert scaled.value == pytest.approx(wanted, abs=1e-4)


def test_linear_loss_has_none_and_iterations_end() -> None:
    x = torch.ones(3, requires_grad=True)
    assert largest_eigenvalue(lambda: iter([x.sum()]), [x]).value == 0.0
    matrix, y = quadratic([5.0, 4.99, 1.0])
    assert largest_eigenvalue(lambda: iter([y @ matrix @ y]), [y], iterations=3, tolerance=0.0).value == pytest.approx(
        10.0
    )
    wide, z = quadratic(list(np.linspace(1.0, 1.1, 60)))
    stopped = largest_eigenvalue(lambda: iter([0.5 * z @ wide @ z]), [z], iterations=1, tolerance=0.0)
    assert math.isnan(stopped.value)
    assert math.isinf(stopped.residual)
    with pytest.raises(ValueError, match="`iterations` must be 1 or more"):
        largest_eigenvalue(lambda: iter([x.sum()]), [x], iterations=0)


def test_logistic_regression_beside_the_whole_hessian() -> None:
    torch.manual_seed(1)
    model = torch.nn.Linear(3, 2, bias=False).double()
    images, labels = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1, 0])

    def loss(weight: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(images @ weight.view(2, 3).T, labels)

    whole = torch.autograd.functional.hessian(loss, model.weight.detach().flatten())
    found = largest_eigenvalue(
        cross_entropies(model, images, labels, batch_size=4), [model.weight], iterations=300, tolerance=1e-10
    )
    assert found.value == pytest.approx(torch.linalg.eigvalsh(whole)[-1].item(), rel=1e-5)


# Real-to-Binary's PReLU gets sums of signs, which are exactly 0 now and then: torch's second derivative takes the other
# side of the kink than its first.
@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "real2binary18"])
def test_surrogate_graphs_are_symmetric(name: str) -> None:
    torch.manual_seed(0)
    model = create_backbone(name, num_classes=4, image_size=32, **small_options(name, width=8)).double().eval()
    for module in annealed(model):
        module.set_progress(1.0)
    for parameter in model.parameters():
        if parameter.dim() < 2 or parameter.numel() == parameter.shape[1]:  # shifts: no sum stays at a kink
            nn.init.normal_(parameter, std=0.3)
    parameters = [p for n, p in model.named_parameters() if n.endswith("weight") and p.dim() > 1]
    images = torch.rand(4, 3, 32, 32).double()
    losses = cross_entropies(model, images, torch.tensor([0, 1, 2, 3]), batch_size=4)
    u, v = ([torch.randn_like(p) for p in parameters] for _ in range(2))
    with reestimated(model, [images]):
        left, right = (
            sum((a * b).sum().item() for a, b in zip(one, hessian_product(losses, parameters, other), strict=True))
            for one, other in ((u, v), (v, u))
        )
    assert left == pytest.approx(right, rel=1e-6, abs=1e-9)
    assert abs(left) > 1e-6
