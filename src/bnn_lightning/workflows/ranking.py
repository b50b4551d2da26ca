"""Measure candidate teachers on held-out images, beside a student."""

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import LightningDataModule, LightningModule, seed_everything
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn

from bnn_lightning.analysis.knowledge import Knowledge, knowledge_of, knowledge_sums
from bnn_lightning.callbacks.damaged import count_passed_over
from bnn_lightning.cli.build import build, build_datamodule, build_trainer
from bnn_lightning.cli.checkpoint import embedded_config, load_backbone, network_file, read_checkpoint
from bnn_lightning.cli.checks import check_data, check_devices, damaged_files, relaxed
from bnn_lightning.cli.errors import UserError, did_you_mean, listed
from bnn_lightning.cli.facts import given_data
from bnn_lightning.cli.noise import silence
from bnn_lightning.cli.own_folder import own_targets
from bnn_lightning.cli.schema import RankSettings, plain_values, read_settings
from bnn_lightning.cli.tree import list_options
from bnn_lightning.distill.teacher import FrozenTeacher
from bnn_lightning.zoo.files import is_name

Plain = dict[str, Any]

_RULE = "name runs of ours and options of the group `teacher`, as in teachers=[runs/twin,resnet34]"


@dataclass(frozen=True)
class Candidate:
    """A teacher and what was measured of it.

    Attributes:
        teacher: As it was named.
        knowledge: Over all held-out images.
    """

    teacher: str
    knowledge: Knowledge


@dataclass(frozen=True)
class Held:
    """Conditions that the figures of all candidates depend on.

    Attributes:
        student: As it was named.
        images: How many were measured.
        damaged: How many could not be read and were left out (`data.on_damaged=skip`).
        seen: The networks that were trained on some of the images.
        relaxed: By network, what to say of one whose annealing has not ended.
    """

    student: str
    images: int
    damaged: int
    seen: Sequence[str]
    relaxed: Mapping[str, str]


class Measure(LightningModule):
    """Sum up what teachers and a student say of held-out images, on all ranks.

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


def rank_teachers(config: DictConfig) -> list[Candidate]:
    """Measure the candidates, and print them, the most suitable first.

    Args:
        config: As composed by Hydra from `rank.yaml`.

    Raises:
        UserError: A candidate that does not exist or does not fit, or no held-out images.
    """
    _check_names(plain_values(config).get("teachers", []))
    settings = read_settings(RankSettings, config)
    if not settings.teachers:
        raise UserError(f"`teachers` is empty: {_RULE}. Options are: {', '.join(list_options('teacher'))}.")
    with _stdout_to_stderr() if settings.format == "json" else ExitStack():
        found, held = _measure(settings, config)
    _say((rank_json if settings.format == "json" else rank_text)(found, held))
    return found


def _measure(settings: RankSettings, config: DictConfig) -> tuple[list[Candidate], Held]:
    silence()
    trainer_node = plain_values(config.trainer)
    check_devices(trainer_node)
    seed_everything(settings.seed, workers=True, verbose=False)
    embedded = embedded_config(read_checkpoint(network_file(settings.student)), settings.student)
    data = given_data(config, embedded["data"])
    datamodule = build_datamodule(data, trust=settings.trust)
    if not getattr(datamodule, "has_val", False):
        raise UserError(
            "`data.val_fraction` is 0: teachers are chosen on held-out images, never on the test set. Give "
            "data.val_fraction=0.1; student and teachers are best trained with the same, and the same data.seed."
        )
    measure = Measure(load_backbone(settings.student, trust=settings.trust), _teachers(settings, data))
    _load(measure, datamodule)
    trainer = build_trainer(trainer_node, callbacks=[], loggers=[])
    check_data(datamodule, trainer, stage="validate")
    with damaged_files():
        trainer.validate(measure, datamodule=datamodule, verbose=False)
    if not measure.num_images:
        raise UserError("`data`: no held-out image was measured.")
    seen = [name for name in (settings.student, *settings.teachers) if _has_seen(name, data)]
    networks = {settings.student: measure.student} | {n: teacher.network for n, teacher in measure.teachers.items()}
    warnings = {name: warning for name, network in networks.items() if (warning := relaxed(network)) is not None}
    return measure.candidates(), Held(settings.student, measure.num_images, measure.damaged, seen, warnings)


def rank_text(found: Sequence[Candidate], held: Held) -> str:
    """Return a table for people, a teacher a line."""
    names = [field.name for field in fields(Knowledge)]
    left_out = f" ({held.damaged} damaged ones left out)" if held.damaged else ""
    width = max(len("teacher"), *(len(candidate.teacher) for candidate in found)) + 2
    lines = [
        f"for {held.student}, on {held.images} held-out images{left_out}",
        "",
        "teacher".ljust(width) + "".join(f"{n:>12}" for n in names),
    ]
    lines += [
        candidate.teacher.ljust(width) + "".join(f"{getattr(candidate.knowledge, name):>12.4f}" for name in names)
        for candidate in found
    ]
    lines += ["", "complexity: (loss + gap) / the student's loss; 1 is what the labels alone are worth, less is better"]
    if held.seen:
        lines.append(
            f"note: trained on some of these images, so that they look better than they are: {', '.join(held.seen)} "
            "(the same data.val_fraction and data.seed hold the same images out)"
        )
    lines += [f"{name}: {warning}" for name, warning in held.relaxed.items()]
    return "\n".join(lines)


def rank_json(found: Sequence[Candidate], held: Held) -> str:
    """Return everything for programs, exact."""
    teachers = [{"teacher": candidate.teacher} | asdict(candidate.knowledge) for candidate in found]
    facts = {"student": held.student, "images": held.images, "damaged": held.damaged}
    notes = {"trained_on_them": list(held.seen), "not_binary": list(held.relaxed)}
    return json.dumps(facts | notes | {"teachers": teachers}, indent=2)


@rank_zero_only
def _say(text: str) -> None:
    print(text, flush=True)


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Let progress bars and logs, too, go to stderr."""
    logs = [h for h in logging.root.handlers if isinstance(h, logging.StreamHandler) and h.stream is sys.stdout]
    stdout = sys.stdout
    for handler in logs:
        handler.setStream(sys.stderr)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        for handler in logs:
            handler.setStream(stdout)


def _check_names(teachers: Any) -> None:
    if not isinstance(teachers, list):
        raise UserError(f"`teachers` must be a list, got {_written(teachers)}: {_RULE}; one is teachers=[runs/twin].")
    for name in teachers:
        if not isinstance(name, str) or not name:
            path = f"; a folder of that name is teachers=[./{name}]" if type(name) is int else ""
            raise UserError(f"`teachers` must be a list of names, got {_written(name)} in it: {_RULE}{path}.")


def _written(value: Any) -> str:
    return value if value and isinstance(value, str) else json.dumps(value)


def _teachers(settings: RankSettings, data: Plain) -> dict[str, FrozenTeacher]:
    if len(set(settings.teachers)) < len(settings.teachers):
        raise UserError(f"`teachers` names one of them twice: {settings.teachers}.")
    return {name: _teacher(name, settings, data) for name in settings.teachers}


def _teacher(name: str, settings: RankSettings, data: Plain) -> FrozenTeacher:
    if is_name(name) or Path(name).exists():
        return FrozenTeacher(partial(load_backbone, name, trust=settings.trust))
    facts = [f"++data.{key}={data[key]}" for key in ("num_classes", "in_channels", "image_size")]
    _check_option(name)
    node = compose("rank", ["student=x", f"+teacher@candidate={name}", *facts])["candidate"]
    if missing := [key for key in OmegaConf.missing_keys(node) if key]:
        raise UserError(
            f"`teachers`: `{name}` has no value for {listed(key.partition('.')[2] for key in missing)}: name a run of "
            "ours, or an option that says all."
        )
    teacher = build(plain_values(node), at=f"teacher={name}", trust=own_targets())
    if not isinstance(teacher, FrozenTeacher):
        raise UserError(f"`teachers`: `{name}` is no teacher but {type(teacher).__name__}.")
    return teacher


def _check_option(name: str) -> None:
    group, _, option = f"teacher/{name}".rpartition("/")
    loader = GlobalHydra.instance().config_loader()
    if option not in loader.get_group_options(group) or option.startswith("_"):
        options = loader.get_group_options("teacher")
        raise UserError(
            f"`teachers`: there is no file or folder {name}, and no option of the group `teacher`."
            f"{did_you_mean(name, options)} Name a run of ours, or an option; `teacher` has: {listed(options)}."
        )


def _load(measure: Measure, datamodule: LightningDataModule) -> None:
    facts: Any = datamodule
    for name, teacher in measure.teachers.items():
        try:
            teacher.load(num_classes=facts.num_classes, in_channels=facts.in_channels)
        except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
            raise UserError(f"`teachers`: `{name}`: {error}") from error


def _has_seen(name: str, data: Plain) -> bool:
    """Whether a run of ours held other images of this set out than those that are measured now."""
    if not (is_name(name) or Path(name).exists()):
        return False
    before = embedded_config(read_checkpoint(network_file(name)), name)["data"]
    kept = all(before.get(key) == data.get(key) for key in ("val_fraction", "seed"))
    return bool(before.get("_target_") == data.get("_target_")) and not kept
