"""Score every test image with a checkpoint, or a packed file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything

from bnn_lightning.callbacks.damaged import count_passed_over
from bnn_lightning.cli.build import build_datamodule, build_trainer, check
from bnn_lightning.cli.checkpoint import explained
from bnn_lightning.cli.checks import check_data, check_devices, check_precision, damaged_files, relaxed
from bnn_lightning.cli.errors import UserError
from bnn_lightning.cli.facts import given_data
from bnn_lightning.cli.launch import refuse_missing_options
from bnn_lightning.cli.noise import silence
from bnn_lightning.cli.opened import (
    check_class_names,
    check_images,
    check_labels,
    only_scored,
    open_checkpoint,
    say,
)
from bnn_lightning.cli.packed_file import read_packed
from bnn_lightning.cli.schema import EvaluateSettings, plain_values, read_settings
from bnn_lightning.cli.summary import left_out_by
from bnn_lightning.deploy.kernels.library import kernel_info
from bnn_lightning.deploy.runtime.network import LoadedNetwork
from bnn_lightning.tasks.classification import ClassificationTask

Plain = dict[str, Any]


@dataclass(frozen=True)
class Score:
    """Result of an evaluation.

    Attributes:
        images: How many were scored.
        damaged: How many could not be read and were left out (`data.on_damaged=skip`).
        top1: Share of the images whose label has the largest logit.
        top5: Share of the images whose label is among the five largest logits.
        loss: Mean cross-entropy.
        partial: What left images out, such as `trainer.limit_test_batches=2`; None where every image was scored.
    """

    images: int
    top1: float
    top5: float
    loss: float
    damaged: int = 0
    partial: str | None = None

    def __str__(self) -> str:
        left_out = f" ({self.damaged} damaged ones left out)" if self.damaged else ""
        partial = f" (PARTIAL: {self.partial} leaves images out)" if self.partial else ""
        return (
            f"images: {self.images}{partial}{left_out}\n"
            f"top-1:  {100 * self.top1:.2f} %\ntop-5:  {100 * self.top5:.2f} %\n"
            f"loss:   {self.loss:.4f}"
        )


class CountImages(Callback):
    """Count the test images that went through the network, and the damaged ones that did not, on all ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.damaged = 0

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self.count += len(batch[1])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        count = torch.tensor(self.count, device=pl_module.device)
        self.count = int(trainer.strategy.reduce(count, reduce_op="sum"))
        self.damaged = count_passed_over(trainer, "test") or 0


def score(config: DictConfig) -> Score:
    """Score the test set, and print what was found.

    Args:
        config: As composed by Hydra from `evaluate.yaml`.

    Raises:
        UserError: A checkpoint that cannot be read, another network than the checkpoint's, or missing data.
    """
    settings = read_settings(EvaluateSettings, config)
    refuse_missing_options()
    silence()
    plain = {key: plain_values(config[key]) for key in ("trainer", "paths")}
    if settings.packed is not None:
        plain["trainer"]["accelerator"] = "cpu"  # where the kernels are
    check_devices(plain["trainer"])
    check_precision(plain["trainer"], settings.matmul_precision)
    torch.set_float32_matmul_precision(settings.matmul_precision)
    seed_everything(settings.seed, workers=True, verbose=False)
    task, data, path, class_names = _task(settings, config)
    datamodule = build_datamodule(data, trust=settings.trust)
    check_labels(task.backbone, datamodule, path)
    check_class_names(class_names, datamodule, path)
    check_images(task.backbone, datamodule, path)
    _say_preparation(task, datamodule, path)
    counter = CountImages()
    trainer = build_trainer(plain["trainer"], callbacks=[counter], loggers=[])
    check_data(datamodule, trainer, stage="test")
    with damaged_files():
        found = trainer.test(task, datamodule=datamodule, verbose=False)[0]
    top1, top5, loss = (float(found[f"test/{name}"]) for name in ("acc", "acc_top5", "loss"))
    result = Score(counter.count, top1, top5, loss, damaged=counter.damaged, partial=left_out_by(trainer))
    say(f"\n{result}")
    if (warning := relaxed(task.backbone)) is not None:
        say(warning)
    return result


def _task(settings: EvaluateSettings, config: DictConfig) -> tuple[ClassificationTask, Plain, str, tuple[str, ...]]:
    """Return the task, the configuration of the data, the file that both come from, and the names of its classes."""
    if settings.packed is not None:
        if settings.ckpt is not None:
            raise UserError("give `ckpt=...` or `packed=...`, not both.")
        task, data = unpack(settings.packed, config, trust=settings.trust)
        network: Any = task.backbone
        return task, data, settings.packed, network.info.class_names
    if settings.ckpt is None:
        raise UserError("`ckpt` has no value: give `ckpt=...`, or `packed=...` for a packed file.")
    opened = open_checkpoint(settings.ckpt, config, verb="evaluate", trust=settings.trust)
    return opened.task, opened.data, opened.path, opened.class_names


def unpack(packed: str, config: DictConfig, *, trust: Sequence[str] = ()) -> tuple[ClassificationTask, Plain]:
    """Return a task with the network of a packed file, and the configuration of the data to score it on.

    Args:
        packed: The file; kernels run on the CPU, and so `config.trainer` must.
        config: What is not null in its `data` takes the place of what the file was exported with.
        trust: See `load_task`.

    Raises:
        UserError: It cannot be read, another network is named beside it, or it does not know its data.
    """
    if "_target_" in config.get("model", {}):
        raise UserError(f"`{packed}` says itself which network it is: leave `model=` out.")
    network = read_packed(packed)
    known = network.info.provenance.get("config")
    known = known.get("data") if isinstance(known, dict) else None
    if "_target_" not in config.data and not isinstance(known, dict):
        raise UserError(f"`{packed}` does not say which data it was exported with: name them, as in data=cifar10.")
    data = given_data(config, known if isinstance(known, dict) else {})
    with explained(packed):
        check(data, at="data", trust=trust)
    with torch.inference_mode():
        num_classes = network(torch.zeros(1, *network.info.shape)).shape[1]
    task = only_scored(network, num_classes)
    facts = {"num_classes": num_classes, "in_channels": network.info.in_channels}
    for name, fact in (facts | {"image_size": network.info.image_size}).items():
        setattr(task.backbone, name, fact)
    say(f"{packed}: {network.info.name}, packed, kernel {kernel_info().name}; scored on {data.get('name')}")
    return task, data


def _say_preparation(task: ClassificationTask, datamodule: Any, path: str) -> None:
    """Say where images are prepared otherwise than a packed file says, as with `data=` beside it."""
    known = task.backbone.info.preparation if isinstance(task.backbone, LoadedNetwork) else None
    chosen = getattr(datamodule, "preparation", None)
    if known is not None and chosen != known:
        say(f"NOTE: `{path}` was made for pictures prepared so: {known}. Those scored here: {chosen or 'not known'}.")
