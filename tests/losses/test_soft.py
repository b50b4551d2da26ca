"""Losses against soft labels, beside the formula in plain Python."""

import math

import pytest
import torch

from bnn_lightning.losses import soft_cross_entropy, soft_label_kl


def softmax(values: list[float], temperature: float) -> list[float]:
    exponentials = [math.exp(v / temperature) for v in values]
    return [e / sum(exponentials) for e in exponentials]


def logits(rows: int = 3, columns: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    steps = torch.arange(rows * columns, dtype=torch.float64)
    return 3 * steps.sin().view(rows, columns), 3 * steps.cos().view(rows, columns)


def test_kl_published_vector() -> None:
    z, q = logits()
    assert soft_label_kl(z, q, temperature=4.0).item() == pytest.approx(3.90446, abs=5e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_formulae(temperature: float) -> None:
    z, q = logits()
    kl = cross_entropy = 0.0
    for row, target in zip(z.tolist(), q.tolist(), strict=True):
        p, t = softmax(row, temperature), softmax(target, temperature)
        kl += sum(b * (math.log(b) - math.log(a)) for a, b in zip(p, t, strict=True))
        cross_entropy -= sum(b * math.log(a) for a, b in zip(p, t, strict=True))
    scale = temperature**2 / len(z)
    assert soft_label_kl(z, q, temperature).item() == pytest.approx(kl * scale, rel=1e-12)
    assert soft_cross_entropy(z, q, temperature).item() == pytest.approx(cross_entropy * scale, rel=1e-12)


def test_gradient_is_the_difference_of_the_softened_predictions() -> None:
    z, q = logits()
    expected = 4.0 * (torch.softmax(z / 4, 1) - torch.softmax(q / 4, 1)) / len(z)
    for loss in (soft_label_kl, soft_cross_entropy):
        student, target = z.clone().requires_grad_(), q.clone().requires_grad_()
        loss(student, target, 4.0).backward()
        assert target.grad is None
        torch.testing.assert_close(student.grad, expected, rtol=1e-12, atol=1e-15)


def test_invalid_samples_add_nothing_and_leave_the_others_alone() -> None:
    z, q = logits()
    student = z.clone().requires_grad_()
    q[1] = float("nan")
    loss = soft_label_kl(student, torch.where(torch.isnan(q), 0.0, q), valid=torch.tensor([True, False, True]))
    loss.backward()
    alone = sum(soft_label_kl(z[i : i + 1], q[i : i + 1]) for i in (0, 2)) / 3
    torch.testing.assert_close(loss.detach(), torch.as_tensor(alone))
    assert student.grad is not None
    assert torch.equal(student.grad[1], torch.zeros(10, dtype=torch.float64))
    assert student.grad[0].abs().sum() > 0


def test_no_valid_sample_gives_zero() -> None:
    z, q = logits()
    student = z.clone().requires_grad_()
    loss = soft_label_kl(student, q, valid=torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(student.grad, torch.zeros_like(z))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    z, q = (x.to(dtype) for x in logits())
    loss = soft_label_kl(z, q)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, soft_label_kl(z.float(), q.float()))


@pytest.mark.parametrize("loss", [soft_label_kl, soft_cross_entropy])
@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperature_must_be_positive(loss, temperature: float) -> None:
    with pytest.raises(ValueError, match=r"`temperature` must be positive, got"):
        loss(*logits(), temperature)
