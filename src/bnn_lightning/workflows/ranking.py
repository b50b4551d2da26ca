"""Ranking of candidate teachers for a student, measured on held-out images."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule, LightningModule, seed_everything
from torch import Tensor, nn

from bnn_lightning.analysis.knowledge import Knowledge, knowledge_of, knowledge_sums
from bnn_lightning.callbacks.damaged import count_passed_over
from bnn_lightning.distill.teacher import FrozenTeacher
from bnn_lightning.utils.text import text_table
from bnn_lightning.workflows.building import build_datamodule
from bnn_lightning.workflows.checkpoint import embedded_config, load_backbone, network_file, read_checkpoint
from bnn_lightning.workflows.checks import check_devices, relaxed
from bnn_lightning.workflows.errors import READING, UserError, as_user_error
from bnn_lightning.workflows.opened import describe
from bnn_lightning.workflows.process_state import contained
from bnn_lightning.workflows.settings import RankSettings, make_settings, takes
from bnn_lightning.workflows.trainer import SCORING_TRAINER, show_images
from bnn_lightning.zoo.files import is_name

Plain = dict[str, Any]
MakeTeacher = Callable[[str, Plain], FrozenTeacher]

RULE = "name runs of ours and options of the group `teacher`, as in teachers=[runs/twin,resnet34]"


@dataclass(frozen=True)
class Candidate:
    """A teacher and its measurements.

    Attributes:
        teacher: Name or path of the teacher.
        knowledge: Measurements over all held-out images.
    """

    teacher: str
    knowledge: Knowledge


@dataclass(frozen=True)
class Held:
    """Conditions that the figures of all candidates depend on.

    Attributes:
        student: Name or path of the student.
        images: Number of images that were measured.
        damaged: Number of images that could not be read and were left out (`data.on_damaged=skip`).
        seen: The networks that were trained on some of the images.
        relaxed: Warnings on networks whose annealing has not ended, by name.
    """

    student: str
    images: int
    damaged: int
    seen: Sequence[str]
    relaxed: Mapping[str, str]


class Measure(LightningModule):
    """Accumulate the predictions of teachers and a student on held-out images, on all ranks.

    Args:
        student: The network that is to learn.
        teachers: By name.
    """

    def __init__(self, student: nn.Module, teachers: Mapping[str, FrozenTeacher]) -> None:
        super().__init__()
        self.student, self.teachers = student, dict(teachers)
        self.sums: dict[str, Tensor | int] = dict.fromkeys(self.teachers, 0)
        self.num_images = self.damaged = 0

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self.student(images)
        for name, teacher in self.teachers.items():
            self.sums[name] = self.sums[name] + knowledge_sums(teacher(images), logits, labels).cpu()
        self.num_images += len(labels)

    def on_validation_epoch_end(self) -> None:
        # A rank without a batch takes part as well.
        own = [torch.as_tensor(sums, dtype=torch.float64).expand(6) for sums in self.sums.values()]
        count = torch.tensor(self.num_images, device=self.device)
        sums = self.trainer.strategy.reduce(torch.stack(own).to(self.device), reduce_op="sum")
        self.sums = dict(zip(self.sums, sums.cpu(), strict=True))
        self.num_images = int(self.trainer.strategy.reduce(count, reduce_op="sum"))
        self.damaged = count_passed_over(self.trainer, "val") or 0

    def candidates(self) -> list[Candidate]:
        """Return the teachers, the one of lowest complexity first."""
        found = [Candidate(n, knowledge_of(torch.as_tensor(s), self.num_images)) for n, s in self.sums.items()]
        return sorted(found, key=lambda candidate: candidate.knowledge.complexity)


@dataclass(frozen=True)
class Ranking:
    """Teachers of a student, the one of lowest complexity first.

    Attributes:
        candidates: Measurements of each teacher.
        held: Conditions of the measurement.
    """

    candidates: Sequence[Candidate]
    held: Held

    def __repr__(self) -> str:
        held, names = self.held, [field.name for field in fields(Knowledge)]
        left_out = f" ({held.damaged} damaged ones left out)" if held.damaged else ""
        rows = [[c.teacher, *(f"{getattr(c.knowledge, name):.4f}" for name in names)] for c in self.candidates]
        lines = [
            f"for {held.student}, on {held.images} held-out images{left_out}",
            "",
            *text_table([["teacher", *names], *rows], right=range(1, len(names) + 1)),
            "",
            "complexity: (loss + gap) / the student's loss; 1 is what the labels alone are worth, less is better",
        ]
        if held.seen:
            lines.append(
                f"note: trained on some of these images, so that they look better than they are: {', '.join(held.seen)}"
                " (the same data.val_fraction and data.seed hold the same images out)"
            )
        return "\n".join([*lines, *(f"{name}: {warning}" for name, warning in held.relaxed.items())])

    def json(self) -> str:
        """Return the ranking as JSON, exact."""
        held = self.held
        teachers = [{"teacher": candidate.teacher} | asdict(candidate.knowledge) for candidate in self.candidates]
        facts = {"student": held.student, "images": held.images, "damaged": held.damaged}
        notes = {"trained_on_them": list(held.seen), "not_binary": list(held.relaxed)}
        return json.dumps(facts | notes | {"teachers": teachers}, indent=2)


@takes(RankSettings)
@contained()
def rank(
    student: str | Path,
    teachers: Sequence[str | Path] | Mapping[str, FrozenTeacher],
    *,
    data: str | Plain | None = None,
    data_dir: str | Path | None = None,
    trainer: Plain | None = None,
    make_teacher: MakeTeacher | None = None,
    **options: Any,
) -> Ranking:
    """Measure which teacher suits a student, on held-out images.

    Args:
        student: A run's folder or a checkpoint: the student before it is distilled.
        teachers: Runs' folders, checkpoints, or names that `make_teacher` knows; or teachers by name.
        data: Keys that take the place of those of the student's training: see `evaluate`.
        data_dir: Folder of the data files, where those of the training are not there; None: `BNN_DATA` of the
            environment, or "data".
        trainer: Arguments of Lightning's Trainer.
        make_teacher: Returns the teacher of a name that is no file, for the classes, channels and size in a section
            `data`.
        options: Keys of `RankSettings`.

    Raises:
        UserError: A candidate that does not exist or does not fit, or no held-out images.
    """
    names: Any = teachers
    if isinstance(teachers, Mapping | list | tuple):
        names = [os.fspath(name) if isinstance(name, os.PathLike) else name for name in teachers]
    check_names(names)
    settings = make_settings(RankSettings, "rank", student=student, teachers=names, **options)
    if not names:
        raise UserError(f"`teachers` is empty: {RULE}.")
    if len(set(names)) < len(names):
        raise UserError(f"`teachers` names one of them twice: {names}.")
    node = SCORING_TRAINER | (trainer or {})
    check_devices(node)
    seed_everything(settings.seed, workers=True, verbose=False)
    embedded = embedded_config(read_checkpoint(network_file(settings.student)), settings.student)
    section = describe(None, data, data_dir).data_beside(embedded["data"])
    datamodule = build_datamodule(section, trust=settings.trust)
    if not getattr(datamodule, "has_val", False):
        raise UserError(
            "`data.val_fraction` is 0: teachers are chosen on held-out images, never on the test set. Give "
            "data.val_fraction=0.1; student and teachers are best trained with the same, and the same data.seed."
        )
    given = teachers if isinstance(teachers, Mapping) else {}
    made = {name: given.get(name) or _teacher(name, section, make_teacher, settings.trust) for name in names}
    measure = Measure(load_backbone(settings.student, trust=settings.trust), made)
    _load(measure, datamodule)
    show_images(measure, datamodule, node, stage="validate")
    if not measure.num_images:
        raise UserError("`data`: no held-out image was measured.")
    networks = dict.fromkeys((settings.student, *names))
    seen = [name for name in networks if name not in given and _has_seen(name, section)]
    warnings = _relaxed(measure, settings.student)
    held = Held(settings.student, measure.num_images, measure.damaged, seen, warnings)
    return Ranking(measure.candidates(), held)


def _relaxed(measure: Measure, student: str) -> dict[str, str]:
    """Return warnings on networks whose annealing has not ended, by name."""
    networks = {student: measure.student} | {n: teacher.network for n, teacher in measure.teachers.items()}
    return {name: warning for name, network in networks.items() if (warning := relaxed(network)) is not None}


def _teacher(name: str, data: Plain, make_teacher: MakeTeacher | None, trust: Sequence[str]) -> FrozenTeacher:
    if is_name(name) or Path(name).exists():
        return FrozenTeacher(partial(load_backbone, name, trust=trust))
    if make_teacher is None:
        raise UserError(f"`teachers`: there is no file or folder {name}.")
    return make_teacher(name, data)


def check_names(teachers: Any) -> None:
    """Refuse teachers that are not a list of names.

    Raises:
        UserError: Says how a list is written.
    """
    if not isinstance(teachers, list):
        raise UserError(f"`teachers` must be a list, got {_written(teachers)}: {RULE}; one is teachers=[runs/twin].")
    for name in teachers:
        if not isinstance(name, str) or not name:
            path = f"; a folder of that name is teachers=[./{name}]" if type(name) is int else ""
            raise UserError(f"`teachers` must be a list of names, got {_written(name)} in it: {RULE}{path}.")


def _written(value: Any) -> str:
    return value if value and isinstance(value, str) else json.dumps(value, default=repr)


def _load(measure: Measure, datamodule: LightningDataModule) -> None:
    facts: Any = datamodule
    for name, teacher in measure.teachers.items():
        with as_user_error(f"`teachers`: `{name}`: ", READING):
            teacher.load(num_classes=facts.num_classes, in_channels=facts.in_channels)


def _has_seen(name: str, data: Plain) -> bool:
    """Whether a run of ours held other images of this set out than those that are measured now."""
    if not (is_name(name) or Path(name).exists()):
        return False
    before = embedded_config(read_checkpoint(network_file(name)), name)["data"]
    kept = all(before.get(key) == data.get(key) for key in ("val_fraction", "seed"))
    return bool(before.get("_target_") == data.get("_target_")) and not kept
