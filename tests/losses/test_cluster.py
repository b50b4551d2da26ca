"""The cluster loss, beside the formula in plain Python."""

import math

import pytest
import torch

from bnn_lightning.losses import cluster_loss


def plain(features: list[list[float]], labels: list[int]) -> float:
    total = 0.0
    for row, label in zip(features, labels, strict=True):
        members = [f for f, y in zip(features, labels, strict=True) if y == label]
        mean = [sum(column) / len(members) for column in zip(*members, strict=True)]
        dot = sum(a * b for a, b in zip(row, mean, strict=True))
        total += (1 - dot / math.hypot(*row) / math.hypot(*mean)) / 2
    return total / len(features)


def vector() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(20, dtype=torch.float64).sin().view(5, 4), torch.tensor([0, 1, 0, 1, 1])


def test_published_vector() -> None:
    assert cluster_loss(*vector(), 2).item() == pytest.approx(0.177207, abs=5e-7)


@pytest.mark.parametrize("num_classes", [2, 7])
def test_formula(num_classes: int) -> None:
    f, y = vector()
    assert cluster_loss(f, y, num_classes).item() == pytest.approx(plain(f.tolist(), y.tolist()), rel=1e-12)


def test_gradient_with_the_means_held_fixed() -> None:
    f, y = vector()
    means = torch.stack([f[y == c].mean(0) for c in (0, 1)])[y]
    expected = f.clone().requires_grad_()
    ((1 - torch.cosine_similarity(expected, means)) / 2).mean().backward()
    student = f.clone().requires_grad_()
    cluster_loss(student, y, 2).backward()
    torch.testing.assert_close(student.grad, expected.grad, rtol=1e-12, atol=1e-15)


def test_classes_that_occur_once_are_their_own_centre() -> None:
    f, _ = vector()
    student = f.clone().requires_grad_()
    loss = cluster_loss(student, torch.arange(5), 1000)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    torch.testing.assert_close(student.grad, torch.zeros_like(f), atol=1e-12, rtol=0)


def test_zero_vectors_and_zero_means_give_no_nan() -> None:
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0], [-1.0, -2.0]], requires_grad=True)
    loss = cluster_loss(features, torch.tensor([0, 0, 1, 1]), 2)  # a zero feature; two that cancel
    loss.backward()
    assert loss.item() == pytest.approx((0.5 + 0.0 + 0.5 + 0.5) / 4)
    assert features.grad is not None
    assert torch.equal(features.grad[0], torch.zeros(2))
    assert features.grad.abs().max() < 1


def test_feature_maps_are_flattened_and_half_precision_is_widened() -> None:
    maps = torch.rand(6, 2, 3, 3).bfloat16()
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    loss = cluster_loss(maps, labels, 3)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, cluster_loss(maps.float().flatten(1), labels, 3))
