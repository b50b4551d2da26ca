"""Knowledge of a teacher that a student can take in, measured from their predictions."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Knowledge:
    """Measurements of a teacher, for one student, over some images.

    Attributes:
        complexity: (loss + gap) / the student's loss; see `knowledge_complexity`. The lower, the better.
        accuracy: Share of the images whose label has the teacher's largest logit.
        loss: The teacher's mean cross-entropy with the labels, in nats.
        gap: Mean divergence KL(teacher || student), in nats.
        agreement: Share of the images on which teacher and student have one largest logit.
        confidence: Mean of the teacher's largest probability.
    """

    complexity: float
    accuracy: float
    loss: float
    gap: float
    agreement: float
    confidence: float


def knowledge_complexity(teacher_logits: Tensor, student_logits: Tensor, labels: Tensor) -> Knowledge:
    r"""Measure whether a teacher is wrong too often, or too far away, for a student.

    With p the teacher's and q the student's probabilities, and means over the images,

    .. math:: K = \frac{\overline{-\log p_y} + \overline{\mathrm{KL}(p \,\|\, q)}}{\overline{-\log q_y}}

    The first term falls as the teacher knows more, the second rises as it gets harder to follow; both are in nats, and
    nothing is weighed by hand. Two teachers that teach nothing score exactly 1: the student itself (its gap is 0, its
    loss the student's), and the bare labels (their loss is 0, their gap the student's loss). As both terms are convex
    in p, what lies between student and labels scores below 1. Above 1 a teacher is worse than the labels alone: it errs
    more than it explains, or its confident errors are far from the student.

    The measure is ours. The paper of BNext names a "knowledge complexity" for the choice of teachers, which weighs
    accuracy against a capacity gap; its released code holds no such measure, and this is not a reconstruction. That
    the most accurate teacher need not be the best one is known from Cho and Hariharan, and from Mirzadeh et al.

    Args:
        teacher_logits: Shape (N, C).
        student_logits: Shape (N, C), of the student as it is before distillation, such as one trained for a few epochs.
        labels: Shape (N,).

    Example:
        >>> labels, student = torch.tensor([0, 1]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> knowledge_complexity(student, student, labels).complexity
        1.0
        >>> round(knowledge_complexity(100 * student, student, labels).complexity, 6)  # the labels
        1.0
        >>> round(knowledge_complexity(2 * student, student, labels).complexity, 3)
        0.619

    References:
        Guo et al., BNext, 2022; Cho, Hariharan, On the efficacy of knowledge distillation, ICCV 2019; Mirzadeh et al.,
        Improved knowledge distillation via teacher assistant, AAAI 2020.
    """
    return knowledge_of(knowledge_sums(teacher_logits, student_logits, labels), len(labels))


def knowledge_sums(teacher_logits: Tensor, student_logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sums over a batch that `knowledge_of` is made of, shape (6,), in double precision; see there.

    Args:
        teacher_logits: Shape (N, C).
        student_logits: Shape (N, C).
        labels: Shape (N,).
    """
    teacher, student = (logits.double().log_softmax(1) for logits in (teacher_logits, student_logits))
    probability, index = teacher.exp(), labels[:, None]
    best = teacher.argmax(1)
    columns = (
        -student.gather(1, index)[:, 0],
        best == labels,
        -teacher.gather(1, index)[:, 0],
        torch.where(probability > 0, probability * (teacher - student), 0.0).sum(1),
        best == student.argmax(1),
        probability.amax(1),
    )
    return torch.stack([column.double().sum() for column in columns])


def knowledge_of(sums: Tensor, num_images: int) -> Knowledge:
    """Return the measurements over `num_images` images from sums of `knowledge_sums` over batches."""
    student, accuracy, loss, gap, agreement, confidence = (sums / num_images).tolist()
    return Knowledge((loss + gap) / student, accuracy, loss, gap, agreement, confidence)
