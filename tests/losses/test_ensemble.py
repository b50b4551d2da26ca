"""Gap-weighted soft cross-entropy, beside plain loops in double precision."""

import math

import pytest
import torch

from bnn_lightning.losses import gap_weighted_cross_entropy, soft_cross_entropies, soft_cross_entropy


def logits(seed, rows=6, columns=5):
    return 3 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(values):
    exponentials = [math.exp(v - max(values)) for v in values]
    return [e / sum(exponentials) for e in exponentials]


def cross_entropies(student, teachers):
    """Return l[n][k]."""
    rows = []
    for n, s in enumerate(student.tolist()):
        log_s = [math.log(p) for p in softmax(s)]
        rows.append([-sum(p * q for p, q in zip(softmax(t[n].tolist()), log_s, strict=True)) for t in teachers])
    return rows


def plain(student, teachers, weighting):
    losses = cross_entropies(student, teachers)
    weights = [softmax(row) for row in losses]
    number, kinds = len(losses), range(len(teachers))
    if weighting == "per_sample":
        products = [a * b for row, w in zip(losses, weights, strict=True) for a, b in zip(row, w, strict=True)]
        return sum(products) / number / 2
    return sum(sum(r[k] for r in losses) / number * (sum(w[k] for w in weights) / number) for k in kinds) / 2


@pytest.mark.parametrize("weighting", ["per_sample", "per_batch"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_formulae(weighting, number):
    student, teachers = logits(0), [logits(k + 1) for k in range(number)]
    loss, alpha = gap_weighted_cross_entropy(student, teachers, weighting)
    assert loss.item() == pytest.approx(plain(student, teachers, weighting), rel=1e-12)
    rows = [softmax(row) for row in cross_entropies(student, teachers)]
    assert alpha.tolist() == pytest.approx([sum(column) / len(rows) for column in zip(*rows, strict=True)], rel=1e-12)


def test_as_executed_is_the_outer_product_and_not_what_was_intended():
    """The released code weights losses that are averaged already.

    Were they not, (N, 1, 1) * (N) would broadcast to an outer product, whose mean is the same number; the intended one
    is another.
    """
    student, teachers = logits(0), [logits(1), logits(2)]
    each = torch.tensor(cross_entropies(student, teachers), dtype=torch.float64)
    weights = each.softmax(1)
    outer = sum((each[:, k, None, None] * weights[:, k]).mean() for k in (0, 1)) / 2
    executed, _ = gap_weighted_cross_entropy(student, teachers, "per_batch")
    intended, _ = gap_weighted_cross_entropy(student, teachers, "per_sample")
    assert executed.item() == pytest.approx(outer.item(), rel=1e-12)
    assert intended.item() > 1.01 * executed.item()  # where a loss is large, so is its weight


@pytest.mark.parametrize("weighting", ["per_sample", "per_batch"])
def test_weights_are_constants_in_backward(weighting):
    student, teachers = logits(0).requires_grad_(), [logits(1).requires_grad_(), logits(2)]
    gap_weighted_cross_entropy(student, teachers, weighting)[0].backward()
    assert teachers[0].grad is None
    weights = torch.stack([soft_cross_entropies(student, t) for t in teachers], 1).detach().softmax(1)
    weights = weights if weighting == "per_sample" else weights.mean(0).expand_as(weights)
    prediction = student.detach().softmax(1)
    expected = sum(weights[:, k, None] * (prediction - t.detach().softmax(1)) for k, t in enumerate(teachers))
    torch.testing.assert_close(student.grad, expected / 2 / len(student))


def test_one_teacher_is_plain_soft_cross_entropy():
    student, teacher = logits(0), logits(1)
    for weighting in ("per_sample", "per_batch"):
        loss, alpha = gap_weighted_cross_entropy(student, [teacher], weighting, scale=1.0)
        torch.testing.assert_close(loss, soft_cross_entropy(student, teacher))
        assert alpha.tolist() == [1.0]


def test_refused():
    with pytest.raises(ValueError, match=r"`weighting` must be one of \['per_sample', 'per_batch'\], got 'Instance'"):
        gap_weighted_cross_entropy(logits(0), [logits(1)], "Instance")
    with pytest.raises(ValueError, match="at least one teacher"):
        gap_weighted_cross_entropy(logits(0), [])
