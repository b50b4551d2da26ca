"""Attention matching, beside the formula in plain Python."""

import math

import pytest
import torch

from bnn_lightning.losses import attention_loss, attention_map


def maps(channels=3, height=4, width=5, *, seed=0):
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_map(sample):
    channels, height, width = sample.shape
    return [
        sum(float(sample[c, i, j]) ** 2 for c in range(channels)) / channels
        for i in range(height)
        for j in range(width)
    ]


@pytest.mark.parametrize("scale", ["unit", "max"])
def test_formulae(scale):
    student, teacher = maps(3), maps(7, seed=1)
    expected = 0.0
    for s, t in zip(student, teacher, strict=True):
        a, b = plain_map(s), plain_map(t)
        if scale == "unit":
            la, lb = math.sqrt(sum(x * x for x in a)), math.sqrt(sum(x * x for x in b))
            expected += math.sqrt(sum((x / la - y / lb) ** 2 for x, y in zip(a, b, strict=True))) / 2
        else:
            squares = [(x / max(a) - y / max(b)) ** 2 for x, y in zip(a, b, strict=True)]
            expected += sum(squares) / len(squares) / 2
    assert attention_loss(student, teacher, scale).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scale", ["unit", "max"])
def test_gradient(scale):
    student, teacher = maps().requires_grad_(), maps(seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: attention_loss(x, teacher.detach(), scale), student)
    attention_loss(student, teacher, scale).backward()
    assert teacher.grad is None
    zero = torch.zeros(1, 2, 3, 3, requires_grad=True)
    attention_loss(zero, torch.rand(1, 2, 3, 3), scale).backward()
    assert torch.equal(zero.grad, torch.zeros_like(zero))


def test_the_size_of_the_maps_values_does_not_count():
    student, teacher = maps(), maps(seed=1)
    for scale in ("unit", "max"):
        torch.testing.assert_close(
            attention_loss(student, 100 * teacher, scale), attention_loss(student, teacher, scale)
        )


def test_a_larger_teacher_is_averaged_over_areas():
    teacher = maps(height=8, width=10, seed=1)
    target = attention_map(teacher).view(2, 4, 2, 5, 2).mean((2, 4)).sqrt()[:, None]
    torch.testing.assert_close(attention_loss(maps(), teacher), attention_loss(maps(), target))


def test_half_precision_is_computed_in_float32():
    student, teacher = maps().half() * 300, maps(seed=1).half() * 300  # their squares exceed 65504
    loss = attention_loss(student, teacher)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, attention_loss(student.float(), teacher.float()))


def test_refused():
    with pytest.raises(ValueError, match=r"`scale` must be one of \['unit', 'max'\], got 'l1'"):
        attention_loss(maps(), maps(), "l1")
    with pytest.raises(ValueError, match="must be feature maps"):
        attention_loss(torch.rand(2, 3), torch.rand(2, 3))
