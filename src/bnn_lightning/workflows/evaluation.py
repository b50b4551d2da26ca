"""Evaluation: every test image scored with a checkpoint, or a packed file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything

from bnn_lightning.callbacks.damaged import count_passed_over
from bnn_lightning.deploy.kernels.library import kernel_info
from bnn_lightning.deploy.runtime.network import LoadedNetwork
from bnn_lightning.tasks.classification import ClassificationTask
from bnn_lightning.workflows.building import check
from bnn_lightning.workflows.checkpoint import explained
from bnn_lightning.workflows.checks import check_devices, check_precision, relaxed
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.messages import say
from bnn_lightning.workflows.opened import (
    Described,
    OpenedNetwork,
    add_network,
    describe,
    only_scored,
    open_checkpoint,
    refuse_model,
)
from bnn_lightning.workflows.packed_file import read_packed
from bnn_lightning.workflows.process_state import contained
from bnn_lightning.workflows.settings import EvaluateSettings, make_settings, takes
from bnn_lightning.workflows.trainer import SCORING_TRAINER, show_images

Plain = dict[str, Any]


@dataclass(frozen=True)
class Score:
    """Result of an evaluation.

    Attributes:
        images: Number of images that were scored.
        damaged: Number of images that could not be read and were left out (`data.on_damaged=skip`).
        top1: Share of the images whose label has the largest logit.
        top5: Share of the images whose label is among the five largest logits.
        loss: Mean cross-entropy.
        partial: Setting that left images out, such as `trainer.limit_test_batches=2`; None where every image was
            scored.
        warning: Message that the network is not binary yet; None if it is.
    """

    images: int
    top1: float
    top5: float
    loss: float
    damaged: int = 0
    partial: str | None = None
    warning: str | None = None

    def __repr__(self) -> str:
        left_out = f" ({self.damaged} damaged ones left out)" if self.damaged else ""
        partial = f" (PARTIAL: {self.partial} leaves images out)" if self.partial else ""
        return (
            f"images: {self.images}{partial}{left_out}\n"
            f"top-1:  {100 * self.top1:.2f} %\ntop-5:  {100 * self.top5:.2f} %\n"
            f"loss:   {self.loss:.4f}" + (f"\n{self.warning}" if self.warning else "")
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


@takes(EvaluateSettings)
@contained()
def evaluate(
    network: str | Path | None = None,
    *,
    model: str | Plain | None = None,
    data: str | Plain | None = None,
    data_dir: str | Path | None = None,
    trainer: Plain | None = None,
    **options: Any,
) -> Score:
    """Score every test image with a checkpoint, or a packed file.

    Args:
        network: A checkpoint, a run's folder, a packed file (.bnn), or a name of the zoo such as "zoo:mnist_mlp", which
            is its packed file. The keys `ckpt` and `packed` say which it is.
        model: Network of a published file: a name of `list_backbones()`, or a section of a configuration.
        data: Set to score it on: a name such as "mnist", a section of a configuration, or keys that take the place of
            those of the training. None: the set that it was trained on.
        data_dir: Folder of the data files, where those of the training are not there; None: `BNN_DATA` of the
            environment, or "data".
        trainer: Arguments of Lightning's Trainer.
        options: Keys of `EvaluateSettings`.

    Raises:
        UserError: A checkpoint that cannot be read, another network than the checkpoint's, or missing data.
    """
    add_network(network, options)
    settings = make_settings(EvaluateSettings, "evaluate", **options)
    node = SCORING_TRAINER | (trainer or {})
    if settings.packed is not None:
        node["accelerator"] = "cpu"  # where the kernels are
    check_devices(node)
    check_precision(node, settings.matmul_precision)
    torch.set_float32_matmul_precision(settings.matmul_precision)
    seed_everything(settings.seed, workers=True, verbose=False)
    opened = _opened(settings, describe(model, data, data_dir))
    datamodule = opened.datamodule(trust=settings.trust)
    _say_preparation(opened, datamodule)
    return score(opened.task, datamodule, node)


def score(task: ClassificationTask, datamodule: LightningDataModule, trainer: Plain) -> Score:
    """Score the test images of a data module.

    Args:
        task: Holds the network.
        datamodule: Data module of images that it takes.
        trainer: The section of a configuration.

    Raises:
        UserError: Missing or damaged files.
    """
    counter = CountImages()
    runner = show_images(task, datamodule, trainer, callbacks=[counter])
    top1, top5, loss = (float(runner.callback_metrics[f"test/{name}"]) for name in ("acc", "acc_top5", "loss"))
    partial, warning = left_out_by(runner), relaxed(task.backbone)
    return Score(counter.count, top1, top5, loss, damaged=counter.damaged, partial=partial, warning=warning)


def left_out_by(trainer: Trainer, split: str = "test") -> str | None:
    """Return the setting that left images of a split out of its scores, or None."""
    loop = trainer.fit_loop.epoch_loop.val_loop if split == "val" else trainer.test_loop
    loaders = getattr(loop._combined_loader, "flattened", [])
    lengths = [len(loader) if hasattr(loader, "__len__") else 0 for loader in loaders]
    if not any(number < length for number, length in zip(loop.max_batches, lengths, strict=False)):
        return None
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return f"trainer.fast_dev_run={trainer.fast_dev_run}"  # type: ignore[attr-defined]
    return f"trainer.limit_{split}_batches={getattr(trainer, f'limit_{split}_batches')}"


def _opened(settings: EvaluateSettings, described: Described) -> OpenedNetwork:
    if settings.packed is not None:
        if settings.ckpt is not None:
            raise UserError("give `ckpt=...` or `packed=...`, not both.")
        return open_packed(settings.packed, described, trust=settings.trust)
    if settings.ckpt is None:
        raise UserError("`ckpt` has no value: give `ckpt=...`, or `packed=...` for a packed file.")
    return open_checkpoint(settings.ckpt, described, trust=settings.trust)


def open_packed(packed: str, described: Described, *, trust: Sequence[str] = ()) -> OpenedNetwork:
    """Return the network of a packed file in a task, and the configuration of the data to score it on.

    Args:
        packed: The file; kernels run on the CPU, and so the trainer must.
        described: Data in the place of those that the file was exported with.
        trust: See `load_task`.

    Raises:
        UserError: It cannot be read, another network is named beside it, or it does not know its data.
    """
    refuse_model(packed, described)
    network = read_packed(packed)
    config = network.info.provenance.get("config")
    config = config if isinstance(config, dict) else {}
    known = config.get("data")
    if "_target_" not in described.data and not isinstance(known, dict):
        raise UserError(f"`{packed}` does not say which data it was exported with: name them, as in data=cifar10.")
    data = described.data_beside(known if isinstance(known, dict) else {})
    with explained(packed):
        check(data, at="data", trust=trust)
    with torch.inference_mode():
        num_classes = network(torch.zeros(1, *network.info.shape)).shape[1]
    task = only_scored(network, num_classes)
    facts = {"num_classes": num_classes, "in_channels": network.info.in_channels}
    for name, fact in (facts | {"image_size": network.info.image_size}).items():
        setattr(task.backbone, name, fact)
    say(f"{packed}: {network.info.name}, packed, kernel {kernel_info().name}; scored on {data.get('name')}")
    return OpenedNetwork(packed, task, config, data, network.info.class_names)


def _say_preparation(opened: OpenedNetwork, datamodule: Any) -> None:
    """Log a note if the images are prepared otherwise than the packed file says, as with `data=` beside it."""
    network, chosen = opened.task.backbone, getattr(datamodule, "preparation", None)
    known = network.info.preparation if isinstance(network, LoadedNetwork) else None
    if known is not None and chosen != known:
        here = f"Those scored here: {chosen or 'not known'}."
        say(f"NOTE: `{opened.path}` was made for pictures prepared so: {known}. {here}")
