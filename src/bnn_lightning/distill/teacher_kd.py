"""Distillation from one teacher."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from bnn_lightning.distill.base import Batch, Distiller, Outputs, check_label_smoothing
from bnn_lightning.distill.feature_hooks import pairs, record_maps, tapped_modules
from bnn_lightning.distill.hooks import Taps
from bnn_lightning.distill.teacher import FrozenTeacher, check_width, sizes_of
from bnn_lightning.layers.module_utils import trial, trial_images
from bnn_lightning.losses.attention import AttentionScale, attention_loss
from bnn_lightning.losses.feature import channel_spatial_loss
from bnn_lightning.losses.soft import soft_cross_entropy, soft_label_kl
from bnn_lightning.utils.checks import check_choice, check_not_negative, check_positive


class TeacherKD(Distiller):
    r"""A teacher's predictions and feature maps as targets, with labels mixed in.

    The loss is the weighted sum of

    - hard: cross-entropy with the labels;
    - soft: `soft_cross_entropy` with the teacher's logits;
    - kl: `soft_label_kl` with them, which differs from "soft" by a constant;
    - attention: mean over the pairs of feature maps of `attention_loss`;
    - feature: mean over these pairs of `channel_spatial_loss` ("per_sample"), for a teacher of the student's own
      shapes, such as its float twin.

    A weight of 0 leaves a term out together with its work; without any but "hard" no teacher is asked. In evaluation
    there is "hard" only.

    All terms are means over samples: data parallelism changes none.

    Args:
        teacher: Network whose logits and maps are the targets.
        num_classes: Width of the student's logits.
        hard: Weight of "hard".
        soft: Weight of "soft".
        kl: Weight of "kl".
        temperature: T of "soft" and "kl".
        attention: Weight of "attention".
        attention_scale: "unit" (Real-to-Binary) or "max" (larq-zoo).
        feature: Weight of "feature".
        student_taps: Names of the student's modules whose outputs are compared; None takes the last feature map of each
            size among its `feature_taps()`. Maps are paired from the last one on.
        teacher_taps: The same of the teacher.
        label_smoothing: Label smoothing of "hard".

    Raises:
        ValueError: A value is out of its range.

    Example:
        ReActNet's loss, soft cross-entropy alone.

        >>> from bnn_lightning.models import create_backbone
        >>> shapes = {"num_classes": 10, "in_channels": 1, "image_size": 8}
        >>> student, twin = (create_backbone("resnet20", **shapes, width=4, binary=b) for b in (True, False))
        >>> distiller = TeacherKD(FrozenTeacher(twin), 10, attention=1.0)
        >>> batch = Batch(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 1, 5]))
        >>> with distiller.watch(student) as taps:
        ...     logits = student(batch.images)
        >>> losses = distiller(batch, Outputs(logits, taps.features, taps))
        >>> list(losses)
        ['soft', 'attention']
        >>> distiller.total(losses).backward()

    References:
        Hinton et al., Distilling the knowledge in a neural network, 2015; Liu et al., ReActNet, ECCV 2020 (its
        distributional loss is "soft" with T = 1); Martinez et al., Real-to-Binary, ICLR 2020 (attention).
    """

    def __init__(
        self,
        teacher: FrozenTeacher,
        num_classes: int,
        *,
        hard: float = 0.0,
        soft: float = 1.0,
        kl: float = 0.0,
        temperature: float = 1.0,
        attention: float = 0.0,
        attention_scale: AttentionScale = "unit",
        feature: float = 0.0,
        student_taps: Sequence[str] | None = None,
        teacher_taps: Sequence[str] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        terms = {"soft": soft, "kl": kl, "attention": attention, "feature": feature}
        check_weights({"hard": hard} | terms)
        check_positive("temperature", temperature)
        check_choice("attention_scale", attention_scale, AttentionScale)
        self.teacher, self.num_classes = teacher, num_classes
        self.temperature, self.attention_scale = temperature, attention_scale
        self.student_taps, self.teacher_taps = student_taps, teacher_taps
        self.label_smoothing = check_label_smoothing(label_smoothing)
        self.weights = {"hard": hard} | {name: weight for name, weight in terms.items() if weight > 0}

    @property
    def records(self) -> bool:
        return "attention" in self.weights or "feature" in self.weights

    def prepare(self, backbone: nn.Module) -> None:
        if len(self.weights) > 1:
            self.teacher.load(num_classes=self.num_classes, **sizes_of(backbone))
        if self.records:
            tapped_modules(backbone, self.student_taps)
            tapped_modules(self.teacher.network, self.teacher_taps)
            self._probe_maps(backbone)

    @torch.no_grad()
    def _probe_maps(self, backbone: nn.Module) -> None:
        """See that the maps of both can be compared, with an image."""
        images = trial_images(backbone)
        if images is None:
            return
        maps: tuple[dict[object, Tensor], dict[object, Tensor]] = ({}, {})
        with record_maps(backbone, self.student_taps, maps[0]), trial(backbone):
            backbone(images)
        with record_maps(self.teacher.network, self.teacher_taps, maps[1]):
            self.teacher.probe(images)
        self._map_losses(*maps)

    def watch(self, backbone: nn.Module) -> AbstractContextManager[Taps]:
        return _watch_maps(backbone, self.student_taps) if self.training and self.records else nullcontext(Taps())

    def forward(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        logits, losses = outputs.logits, {}
        if self.weights["hard"] or not self.training:
            losses["hard"] = self.hard_loss(logits, batch)
        if not self.training or len(self.weights) == 1:
            return losses
        maps: dict[object, Tensor] = {}
        with record_maps(self.teacher.network, self.teacher_taps, maps) if self.records else nullcontext():
            target = self.teacher(batch.images)
        check_width(target, self.num_classes)
        if "soft" in self.weights:
            losses["soft"] = soft_cross_entropy(logits, target, self.temperature)
        if "kl" in self.weights:
            losses["kl"] = soft_label_kl(logits, target, self.temperature)
        if self.records:
            losses |= self._map_losses({} if outputs.taps is None else outputs.taps.maps, maps)
        return losses

    def _map_losses(self, student: dict[object, Tensor], teacher: dict[object, Tensor]) -> dict[str, Tensor]:
        matched = pairs(student, teacher)
        losses = {}
        if "attention" in self.weights:
            losses["attention"] = _mean(lambda s, t: attention_loss(s, t, self.attention_scale), matched)
        if "feature" in self.weights:
            losses["feature"] = _mean(_feature_loss, matched)
        return losses


def check_weights(weights: dict[str, float]) -> None:
    """Refuse negative weights, and weights that are all 0.

    Raises:
        ValueError: There is one, or all are.
    """
    for name, weight in weights.items():
        check_not_negative(name, weight)
    if not any(weights.values()):
        raise ValueError(f"One of {', '.join(f'`{name}`' for name in weights)} must be positive, all are 0.")


def _feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    if student.shape != teacher.shape:
        raise ValueError(
            f"`feature` compares maps of one shape, got {list(student.shape)} of the student and {list(teacher.shape)} "
            "of the teacher: take `attention`, which compares any, or a teacher of the student's shapes."
        )
    return channel_spatial_loss(student, teacher, "per_sample")


def _mean(loss: Callable[[Tensor, Tensor], Tensor], matched: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.stack([loss(student, teacher) for student, teacher in matched]).mean()


@contextmanager
def _watch_maps(backbone: nn.Module, names: Sequence[str] | None) -> Iterator[Taps]:
    taps = Taps()
    with record_maps(backbone, names, taps.maps):
        yield taps
