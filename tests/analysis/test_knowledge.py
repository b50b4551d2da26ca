"""Knowledge complexity, beside the formula in plain Python, and what it is meant to say."""

import math

import pytest
import torch

from bnn_lightning.analysis import knowledge_complexity, knowledge_of, knowledge_sums


def logits(seed, rows=9, columns=5):
    return 2 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3])
TRUTH = torch.nn.functional.one_hot(LABELS, 5)


def softmax(values):
    exponentials = [math.exp(v) for v in values]
    return [e / sum(exponentials) for e in exponentials]


def test_formula():
    teacher, student = logits(0).double(), logits(1).double()
    own = loss = gap = 0.0
    right = same = 0
    best = []
    for t, s, label in zip(teacher.tolist(), student.tolist(), LABELS.tolist(), strict=True):
        p, q = softmax(t), softmax(s)
        own -= math.log(q[label])
        loss -= math.log(p[label])
        gap += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        right += p.index(max(p)) == label
        same += p.index(max(p)) == q.index(max(q))
        best.append(max(p))
    found = knowledge_complexity(teacher, student, LABELS)
    assert found.complexity == pytest.approx((loss + gap) / own, rel=1e-12)
    assert found.loss == pytest.approx(loss / 9, rel=1e-12)
    assert found.gap == pytest.approx(gap / 9, rel=1e-12)
    assert (found.accuracy, found.agreement) == (right / 9, same / 9)
    assert found.confidence == pytest.approx(sum(best) / 9, rel=1e-12)


def test_the_student_itself_and_the_bare_labels_are_worth_nothing():
    student = logits(1)
    assert knowledge_complexity(student, student, LABELS).complexity == 1.0
    for certain in (1e3, 1e9):
        labels = knowledge_complexity(certain * TRUTH, student, LABELS)
        assert labels.complexity == pytest.approx(1.0, rel=1e-12)
        assert (labels.loss, labels.accuracy) == (0.0, 1.0)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.8, 0.99])
def test_what_lies_between_student_and_labels_is_worth_something(share):
    student = logits(1).double()
    between = ((1 - share) * student.softmax(1) + share * TRUTH).log()
    assert knowledge_complexity(between, student, LABELS).complexity < 1


def test_a_teacher_that_is_sure_and_wrong_is_worse_than_the_labels():
    wrong = 8.0 * TRUTH.roll(1, dims=1)
    assert knowledge_complexity(wrong, logits(1), LABELS).complexity > 1


def test_sums_add_up_over_batches():
    teacher, student = logits(0), logits(1)
    parts = [knowledge_sums(teacher[i : i + 4], student[i : i + 4], LABELS[i : i + 4]) for i in (0, 4, 8)]
    whole, summed = knowledge_complexity(teacher, student, LABELS), knowledge_of(torch.stack(parts).sum(0), 9)
    assert vars(summed) == pytest.approx(vars(whole), rel=1e-12)
