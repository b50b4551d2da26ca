"""Feature losses, beside their formulae written with loops."""

import math

import pytest
import torch

from bnn_lightning.losses import channel_spatial_loss, flat_feature_loss


def vector() -> tuple[torch.Tensor, torch.Tensor]:
    steps = torch.arange(24, dtype=torch.float64)
    return steps.sin().view(2, 3, 2, 2), steps.cos().view(2, 3, 2, 2)


def unit(values: list[float]) -> list[float]:
    return [v / math.hypot(*values) for v in values]


def pooled(x: torch.Tensor) -> tuple[list[list[float]], list[list[float]]]:
    channel = [unit([c.mean().item() for c in image]) for image in x]
    spatial = [unit([image[:, i, j].mean().item() for i in range(2) for j in range(2)]) for image in x]
    return channel, spatial


def differences(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    return [[p - q for p, q in zip(u, v, strict=True)] for u, v in zip(a, b, strict=True)]


def test_published_vector_with_gradient() -> None:
    student, teacher = vector()
    student.requires_grad_()
    teacher.requires_grad_()
    loss = channel_spatial_loss(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(0.589461, abs=5e-7)
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad[0, 0].flatten().tolist() == pytest.approx([0.0365, 0.16303, 0.16277, 0.03596], abs=5e-6)


def test_reference_formula() -> None:
    student, teacher = vector()
    expected = 0.0
    for a, b, size in zip(pooled(student), pooled(teacher), (3, 4), strict=True):
        expected += math.hypot(*(d for row in differences(a, b) for d in row)) / size
    assert channel_spatial_loss(student, teacher).item() == pytest.approx(expected / 2, rel=1e-12)


def test_per_sample_formula() -> None:
    student, teacher = vector()
    expected = 0.0
    for a, b in zip(pooled(student), pooled(teacher), strict=True):
        expected += sum(math.hypot(*row) for row in differences(a, b))
    assert channel_spatial_loss(student, teacher, "per_sample").item() == pytest.approx(expected / 2, rel=1e-12)


def test_reference_gradient_with_the_lengths_held_fixed() -> None:
    student, teacher = vector()
    expected = student.clone().requires_grad_()
    total = 0.0
    for mean, size in ((lambda x: x.mean((2, 3)), 3), (lambda x: x.mean(1).flatten(1), 4)):
        a, b = mean(expected), mean(teacher)
        total += ((a / a.detach().norm(dim=1, keepdim=True) - b / b.norm(dim=1, keepdim=True)) ** 2).sum().sqrt() / size
    (total / 2).backward()
    student.requires_grad_()
    channel_spatial_loss(student, teacher).backward()
    torch.testing.assert_close(student.grad, expected.grad, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("loss", [channel_spatial_loss, flat_feature_loss])
def test_per_sample_gradient_is_the_derivative(loss) -> None:
    student, teacher = vector()
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, "per_sample"), student)


def test_per_sample_does_not_depend_on_the_size_of_the_batch() -> None:
    student, teacher = (torch.cat([x] * 4) for x in vector())
    once, fourfold = channel_spatial_loss(*vector(), "per_sample"), channel_spatial_loss(student, teacher, "per_sample")
    assert fourfold.item() == pytest.approx(once.item(), rel=1e-12)
    assert channel_spatial_loss(student, teacher).item() == pytest.approx(channel_spatial_loss(*vector()).item() / 2)


def test_flat_formula_of_the_perceptron() -> None:
    student, teacher = (x.flatten(1) for x in vector())
    expected = 2 * math.hypot(*(student - teacher).flatten().tolist()) / (12 * 2)
    assert flat_feature_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)
    assert flat_feature_loss(*vector()).item() == pytest.approx(expected, rel=1e-12)
    distances = [math.hypot(*r) for r in differences([unit(x) for x in student.tolist()], map(unit, teacher.tolist()))]
    assert flat_feature_loss(student, teacher, "per_sample").item() == pytest.approx(sum(distances) / 2, rel=1e-12)


@pytest.mark.parametrize("loss", [channel_spatial_loss, flat_feature_loss])
@pytest.mark.parametrize("normalization", ["reference", "per_sample"])
@pytest.mark.parametrize("case", ["student zero", "teacher zero", "both zero", "equal"])
def test_zeros_give_no_nan(loss, normalization: str, case: str) -> None:
    student, teacher = vector()
    if case in ("student zero", "both zero"):
        student[0] = 0.0
    if case in ("teacher zero", "both zero"):
        teacher[0] = 0.0
    if case == "equal":
        teacher = student.clone()
    student.requires_grad_()
    value = loss(student, teacher, normalization)
    value.backward()
    assert torch.isfinite(value)
    assert student.grad is not None
    assert student.grad.abs().max() < 2
    assert case != "equal" or value.item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("normalization", ["reference", "per_sample"])
def test_half_precision_is_reduced_in_float32(normalization: str) -> None:
    student, teacher = (x.bfloat16() for x in vector())
    student.requires_grad_()
    loss = channel_spatial_loss(student, teacher, normalization)
    loss.backward()
    wide = student.detach().float().requires_grad_()
    expected = channel_spatial_loss(wide, teacher.float(), normalization)
    expected.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)
    assert student.grad is not None
    assert student.grad.dtype == torch.bfloat16
    torch.testing.assert_close(student.grad.float(), wide.grad, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradient_has_the_memory_format_of_the_features(memory_format: torch.memory_format) -> None:
    student, teacher = (x.to(memory_format=memory_format) for x in vector())
    features = student.requires_grad_() * 1.0
    loss = channel_spatial_loss(features, teacher)
    (grad,) = torch.autograd.grad(loss, features)
    assert features.is_contiguous(memory_format=memory_format)
    assert grad.is_contiguous(memory_format=memory_format)
    assert loss.item() == pytest.approx(0.589461, abs=5e-7)
    assert grad[0, 0].flatten().tolist() == pytest.approx([0.0365, 0.16303, 0.16277, 0.03596], abs=5e-6)


def test_unknown_normalization_and_wrong_shapes_are_refused() -> None:
    student, teacher = vector()
    with pytest.raises(ValueError, match=r"`normalization` must be one of \['reference', 'per_sample'\], got 'none'"):
        channel_spatial_loss(student, teacher, "none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="flat_feature_loss"):
        channel_spatial_loss(student.flatten(1), teacher.flatten(1))
    with pytest.raises(ValueError, match="one shape"):
        flat_feature_loss(student, teacher[:, :2])
