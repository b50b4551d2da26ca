"""Score every test image with a checkpoint, or a packed file."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from bnn_lightning.callbacks.damaged import count_passed_over
from bnn_lightning.cli.build import build, build_datamodule, build_trainer
from bnn_lightning.cli.checkpoint import embedded_config, is_ours, load_task, network_file, read_checkpoint
from bnn_lightning.cli.checks import check_data, check_devices, check_precision, damaged_files, relaxed
from bnn_lightning.cli.errors import UserError
from bnn_lightning.cli.launch import refuse_missing_options
from bnn_lightning.cli.noise import silence
from bnn_lightning.cli.packed_file import read_packed
from bnn_lightning.cli.schema import EvaluateSettings, plain_values, read_settings
from bnn_lightning.cli.summary import left_out_by
from bnn_lightning.deploy.kernels import kernel_info
from bnn_lightning.metrics.ops import evaluation
from bnn_lightning.models.checkpoints import load_published
from bnn_lightning.tasks.classification import ClassificationTask
from bnn_lightning.utils.image_size import sides

Plain = dict[str, Any]


@dataclass(frozen=True)
class Score:
    """What an evaluation found.

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
    task, data, path = _task(settings, config)
    datamodule = build_datamodule(data, trust=settings.trust)
    _check_classes(task, datamodule, path)
    check_size(task.backbone, datamodule, path)
    counter = CountImages()
    trainer = build_trainer(plain["trainer"], callbacks=[counter], loggers=[])
    check_data(datamodule, trainer, stage="test")
    with damaged_files():
        found = trainer.test(task, datamodule=datamodule, verbose=False)[0]
    top1, top5, loss = (float(found[f"test/{name}"]) for name in ("acc", "acc_top5", "loss"))
    result = Score(counter.count, top1, top5, loss, damaged=counter.damaged, partial=left_out_by(trainer))
    _say(f"\n{result}")
    if (warning := relaxed(task.backbone)) is not None:
        _say(warning)
    return result


def _task(settings: EvaluateSettings, config: DictConfig) -> tuple[ClassificationTask, Plain, str]:
    """Return the task, the configuration of the data, and the file that both come from."""
    if settings.packed is not None:
        if settings.ckpt is not None:
            raise UserError("give `ckpt=...` or `packed=...`, not both.")
        return (*unpack(settings.packed, config), settings.packed)
    if settings.ckpt is None:
        raise UserError("`ckpt` has no value: give `ckpt=...`, or `packed=...` for a packed file.")
    ckpt = str(network_file(settings.ckpt))
    checkpoint = read_checkpoint(ckpt)
    if is_ours(checkpoint):
        return (*restore(ckpt, config, embedded_config(checkpoint, ckpt), trust=settings.trust), ckpt)
    return (*_published(settings, ckpt, config), ckpt)


def unpack(packed: str, config: DictConfig) -> tuple[ClassificationTask, Plain]:
    """Return a task with the network of a packed file, and the configuration of the data to score it on.

    Args:
        packed: The file; kernels run on the CPU, and so `config.trainer` must.
        config: What is not null in its `data` takes the place of what the file was exported with.

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
    data = _data(config, known if isinstance(known, dict) else {})
    with torch.inference_mode():
        num_classes = network(torch.zeros(1, *network.info.shape)).shape[1]
    task = _only_scored(network, num_classes)
    facts = {"num_classes": num_classes, "in_channels": network.info.in_channels}
    for name, fact in (facts | {"image_size": network.info.image_size}).items():
        setattr(task.backbone, name, fact)
    _say(f"{packed}: {network.info.name}, packed, kernel {kernel_info().name}; scored on {data.get('name')}")
    return task, data


def restore(
    ckpt: str, config: DictConfig, embedded: Plain, *, trust: Sequence[str] = ()
) -> tuple[ClassificationTask, Plain]:
    """Return the task of a checkpoint of ours, and the configuration of the data to score it on.

    Args:
        ckpt: The checkpoint.
        config: What is not null in its `data` takes the place of the checkpoint's own.
        embedded: The configuration in the checkpoint.
        trust: See `load_task`.

    Raises:
        UserError: See `load_task`; or `config` names another network.
    """
    if "_target_" in config.get("model", {}):
        raise UserError(f"`{ckpt}` says itself which network it is: leave `model=` out.")
    task = load_task(ckpt, trust=trust)
    data = _data(config, embedded["data"])
    name = embedded["model"].get("name", embedded["model"].get("_target_"))
    _say(f"{ckpt}: {name}, trained on {embedded['data'].get('name')}; scored on {data.get('name')}")
    return task, data


def _data(config: DictConfig, known: Plain) -> Plain:
    """Return the configuration of the data: what is given, or what a file knows with what is given in its place."""
    given = plain_values(config.data)
    if "_target_" in given:
        return given
    data = known | {key: value for key, value in given.items() if value is not None}
    if given.get("root") is None and not Path(str(data.get("root"))).exists():
        data["root"] = config.paths.data_dir
    return data


def _published(settings: EvaluateSettings, ckpt: str, config: DictConfig) -> tuple[ClassificationTask, Plain]:
    if "_target_" not in config.model or "_target_" not in config.data:
        raise UserError(
            f"`{ckpt}` is not a checkpoint of ours and does not say what it is: name the network and the "
            f"data, as in `bnn evaluate ckpt={ckpt} model=resnet20 data=cifar10`."
        )
    model, data = plain_values(config.model), plain_values(config.data)
    backbone = build(model, at="model", trust=settings.trust)
    try:
        report = load_published(backbone, ckpt)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    says = "" if report.accuracy is None else f"; the file says {report.accuracy:.2f} %"
    dead = "" if not report.dead else f"; not used: {', '.join(report.dead)}"
    _say(f"{ckpt}: {len(report.loaded)} tensors for {model.get('name')}{says}{dead}")
    return _only_scored(backbone, data["num_classes"]), data


def _only_scored(backbone: nn.Module, num_classes: int) -> ClassificationTask:
    # Nothing is trained: the optimizer is never made.
    return ClassificationTask(backbone, num_classes=num_classes, optimizer=partial(torch.optim.SGD, lr=0.1))


@rank_zero_only
def _say(text: str) -> None:
    print(text, flush=True)


def check_size(network: Any, datamodule: Any, path: str) -> None:
    """Refuse images of a size that a network does not take, and say so where it was trained on another.

    Raises:
        UserError: Names both sizes.
    """
    trained, size = getattr(network, "image_size", None), getattr(datamodule, "image_size", None)
    channels = getattr(datamodule, "in_channels", None)
    if size is None or not isinstance(channels, int) or trained is None or sides(trained) == sides(size):
        return
    try:
        with evaluation(network), torch.no_grad():
            network.forward(torch.zeros(1, channels, *sides(size)))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"`{path}` is a network for images of {trained} pixels, and these have {size}: take "
            f"data.image_size={trained}, if the data can be had so."
        ) from error
    _say(f"{path}: trained on images of {trained} pixels, scored on images of {size}")


def _check_classes(task: ClassificationTask, datamodule: Any, path: str) -> None:
    for name in ("num_classes", "in_channels"):
        wanted = getattr(task.backbone, name, None)
        if wanted is not None and wanted != getattr(datamodule, name, wanted):
            raise UserError(
                f"`{path}` is a network with {name}={wanted}, and the data have {name}={getattr(datamodule, name)}."
            )
