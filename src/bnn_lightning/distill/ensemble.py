"""Distillation from a main teacher and assistants that take turns."""

import math
from collections.abc import Mapping

from torch import Tensor, nn

from bnn_lightning.distill.base import Batch, Distiller, Outputs, check_label_smoothing
from bnn_lightning.distill.teacher import FrozenTeacher, check_width, sizes_of
from bnn_lightning.distill.teacher_kd import check_weights
from bnn_lightning.losses.ensemble import Weighting, gap_weighted_cross_entropy


class GapEnsemble(Distiller):
    r"""A strong main teacher and an assistant, weighted sample by sample by the gaps to the student.

    The loss is soft * `gap_weighted_cross_entropy` with the main teacher and the assistant of the moment, + hard *
    cross-entropy with the labels. With several assistants, from weak to strong, each serves for an equal part of the
    training (consecutive distillation): assistant k of K while the progress is in [k / K, (k + 1) / K). The phase
    follows from the progress of the training alone, so that a resumed run goes on exactly; only the two teachers of the
    phase run.

    Logged beside the losses is `alpha`, the mean weight of the assistant. In evaluation there is "hard" only.

    Args:
        main: The strong teacher.
        assistants: By name, from weak to strong; None is the main teacher itself, which is then alone.
        num_classes: Width of the student's logits.
        weighting: "per_sample", as the paper has it, or "per_batch", as its released code executes it.
        scale: Scale of the sum of both; 0.5 is that of the released code.
        soft: Weight of "soft".
        hard: Weight of "hard"; 0, as published, uses no labels.
        label_smoothing: Label smoothing of "hard".

    Raises:
        ValueError: No assistant, or a value out of its range.

    Example:
        >>> teacher = lambda: FrozenTeacher(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
        >>> distiller = GapEnsemble(teacher(), {"weak": teacher(), "middle": teacher()}, 3)
        >>> distiller.set_progress(0.4), distiller.assistant
        (None, 'weak')
        >>> distiller.set_progress(0.5), distiller.assistant
        (None, 'middle')

    References:
        Guo et al., Join the high accuracy club on ImageNet with a binary neural network ticket (BNext), 2022.
    """

    measures = ("alpha",)

    def __init__(
        self,
        main: FrozenTeacher,
        assistants: Mapping[str, FrozenTeacher | None],
        num_classes: int,
        *,
        weighting: Weighting = "per_sample",
        scale: float = 0.5,
        soft: float = 1.0,
        hard: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not assistants:
            raise ValueError("`assistants` must hold at least one teacher; with one teacher alone take TeacherKD.")
        if weighting not in ("per_sample", "per_batch"):
            raise ValueError(f"`weighting` must be one of ['per_sample', 'per_batch'], got {weighting!r}.")
        for name, value in (("scale", scale), ("soft", soft)):
            if value <= 0:
                raise ValueError(f"`{name}` must be positive, got {value}: without teachers there is HardLabels.")
        check_weights({"soft": soft, "hard": hard})
        self.main, self.assistants, self.num_classes = main, dict(assistants), num_classes
        self.weighting: Weighting = weighting
        self.scale = scale
        self.label_smoothing = check_label_smoothing(label_smoothing)
        self.weights = {"hard": hard, "soft": soft}
        self.assistant = next(iter(self.assistants))

    def set_progress(self, progress: float) -> None:
        number = len(self.assistants)
        # A progress of k / K may be a hair below it in floating point.
        phase = min(number - 1, math.floor(progress * number + 1e-9))
        self.assistant = list(self.assistants)[phase]

    @property
    def follows_progress(self) -> bool:
        return len(self.assistants) > 1

    def prepare(self, backbone: nn.Module) -> None:
        missing = []
        for teacher in filter(None, (self.main, *self.assistants.values())):
            try:
                teacher.load(num_classes=self.num_classes, **sizes_of(backbone))
            except FileNotFoundError as error:
                missing.append(error)
        if missing:  # all that is to be fetched is said at once
            raise FileNotFoundError("\n".join(map(str, missing))) from missing[0]

    def forward(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        logits, losses = outputs.logits, {}
        if self.weights["hard"] or not self.training:
            losses["hard"] = self.hard_loss(logits, batch)
        if not self.training:
            return losses
        assistant, target = self.assistants[self.assistant], self.main(batch.images)
        targets = [target if assistant is None else assistant(batch.images), target]
        for target in targets:
            check_width(target, self.num_classes)
        losses["soft"], weights = gap_weighted_cross_entropy(logits, targets, self.weighting, scale=self.scale)
        self.measured = {"alpha": weights[0]}
        return losses
