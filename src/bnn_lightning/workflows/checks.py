"""Validate a run before training starts."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningDataModule, Trainer
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, WeightAveraging
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn

from bnn_lightning.binarizers.base import AnnealedBinarizer, Binarizer, WeightBinarizer
from bnn_lightning.binarizers.temperature import TemperatureSign
from bnn_lightning.callbacks.damaged import DamagedImages
from bnn_lightning.callbacks.ema import EMAWeightAveraging
from bnn_lightning.callbacks.flip_rate import FlipRateLogger
from bnn_lightning.callbacks.gradient_share import GradientShare
from bnn_lightning.data.image_io import DamagedImageError
from bnn_lightning.layers.module_utils import annealed, binary_layers, evaluation
from bnn_lightning.optim.bop import Bop
from bnn_lightning.tasks.classification import ClassificationTask
from bnn_lightning.tasks.labels import LabelError
from bnn_lightning.tasks.scheduler import make_scheduler
from bnn_lightning.workflows.building import build_on_meta
from bnn_lightning.workflows.errors import READING, UserError, as_user_error, did_you_mean, listed

Node = Mapping[str, Any]
# Bound of learning rates and weight decays: Adam divides by 1 - beta, and the quotient must be a float32.
_LARGEST = 1e30


def check_trainer(trainer: Node, matmul_precision: str) -> None:
    """Refuse numbers of the trainer that mean nothing, and a machine that lacks what is asked for.

    Raises:
        UserError: See `check_devices` and `check_precision`; or a number out of its range.
    """
    accumulated, clip = trainer.get("accumulate_grad_batches", 1), trainer.get("gradient_clip_val")
    if accumulated < 1:
        raise UserError(f"trainer.accumulate_grad_batches must be 1 or more, got {accumulated}.")
    if clip is not None and clip < 0:  # Lightning would pass over it
        raise UserError(f"trainer.gradient_clip_val must not be negative, got {clip}; null does not clip.")
    check_devices(trainer)
    check_precision(trainer, matmul_precision)


def check_devices(trainer: Node) -> None:
    """Refuse more devices than the machine has.

    With `trainer.accelerator=cpu` the devices are processes, of which there may be any number.

    Raises:
        UserError: Too many devices, a GPU where there is none, or what only GPUs have without one.
    """
    accelerator, wanted = str(trainer.get("accelerator", "auto")), trainer.get("devices", "auto")
    if trainer.get("sync_batchnorm") and (accelerator == "cpu" or not torch.cuda.is_available()):
        raise UserError("trainer.sync_batchnorm=true: torch synchronizes batch norm on GPUs only; leave it out.")
    if accelerator == "cpu":
        return
    available = torch.cuda.device_count() or int(torch.backends.mps.is_available())
    if accelerator != "auto" and not available:
        raise UserError(f"trainer.accelerator={accelerator}: no GPU here; on the CPU: trainer.accelerator=cpu.")
    number = _highest(wanted)
    if number <= max(available, 1):
        return
    have = f"{available} GPU{'s' if available != 1 else ''}"
    cpu = "" if available else f"; {number} processes on the CPU are trainer.accelerator=cpu trainer.devices={number}"
    raise UserError(f"trainer.devices={wanted}: this machine has {have}{cpu}.")


def check_precision(trainer: Node, matmul_precision: str) -> None:
    """Refuse a precision that the device lacks.

    Raises:
        UserError: The message names what the device has.
    """
    precision = str(trainer.get("precision", "32-true"))
    on_gpu = str(trainer.get("accelerator", "auto")) != "cpu" and torch.cuda.is_available()
    on_mps = not on_gpu and str(trainer.get("accelerator", "auto")) != "cpu" and torch.backends.mps.is_available()
    if precision.startswith("16") and not (on_gpu or on_mps):
        raise UserError(
            f"trainer.precision={precision} needs a GPU; on the CPU take precision=fp32 or precision=bf16, which "
            "Lightning calls 32-true and bf16-mixed."
        )
    if precision.startswith("bf16") and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(f"trainer.precision={precision}: this GPU has no bfloat16; take precision=fp16 or fp32.")
    if precision.startswith("64") and on_mps:
        raise UserError(f"trainer.precision={precision}: Apple's GPUs have no float64; take trainer.accelerator=cpu.")
    if matmul_precision != "highest" and not (on_gpu and torch.cuda.get_device_capability() >= (8, 0)):
        raise UserError(
            f"matmul_precision={matmul_precision} needs an NVIDIA GPU, Ampere or later; take matmul_precision=highest."
        )


def check_data(datamodule: LightningDataModule, trainer: Trainer, *, stage: Literal["fit", "validate", "test"]) -> None:
    """Fetch and read the data, and share the batch between the devices, in the words of the data module.

    Args:
        datamodule: Reads what `stage` needs; Lightning finds it read.
        trainer: Says how many devices there are.
        stage: "fit", "validate" or "test".

    Raises:
        UserError: Missing or damaged files, or a batch that cannot be shared equally.
    """
    datamodule.trainer = trainer
    with as_user_error("`data`: ", READING):
        if stage == "fit" and hasattr(datamodule, "local_batch_size"):
            datamodule.local_batch_size()
        first = trainer.local_rank if datamodule.prepare_data_per_node else trainer.global_rank
        if first == 0:  # the others wait for it when Lightning prepares the data
            datamodule.prepare_data()
            datamodule.setup(stage)


def check_class_weights(task: ClassificationTask, datamodule: LightningDataModule, trainer: Trainer) -> None:
    """Compute the class weights, where the data were read.

    Raises:
        UserError: They cannot be computed.
    """
    if trainer.local_rank == 0:
        with as_user_error(of=(ValueError,)):
            task.weigh_classes(datamodule)


def check_sharding(trainer: Trainer) -> None:
    """Refuse callbacks that need whole weights or gradients where each rank has a share.

    Raises:
        UserError: Names the callback.
    """
    if not isinstance(trainer.strategy, ModelParallelStrategy):
        return
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging | GradientShare):
            raise UserError(
                f"`strategy=fsdp`: {type(callback).__name__} needs whole weights and gradients, of which each rank has "
                "a share. Take strategy=ddp, or leave it out."
            )


@contextmanager
def damaged_files() -> Iterator[None]:
    """Turn a damaged image or a wrong label, which is met during the run, into an error that the user can mend.

    Raises:
        UserError: Names the file, or the label.
    """
    try:
        yield
    except LabelError as error:
        raise UserError(f"`data`: {error}") from error
    except DamagedImageError as error:
        # From a worker the message comes as the last line of a traceback.
        message = str(error).strip().splitlines()[-1]
        raise UserError(
            f"`data`: {message.removeprefix(f'{DamagedImageError.__module__}.DamagedImageError: ')}"
        ) from error


def check_selection(
    task: ClassificationTask, datamodule: Any, callbacks: Sequence[Callback], objective: str | None
) -> None:
    """Refuse to choose anything on the test set, or by what is not logged.

    Raises:
        UserError: A callback or a sweep looks at test scores, at a validation split that there is not, or at a metric
            that nobody logs.
    """
    watched = [(type(callback).__name__, getattr(callback, "monitor", None)) for callback in callbacks]
    watched.append(("objective", objective))
    has_val = getattr(datamodule, "has_val", True)
    logged = logged_names(task, callbacks, has_val=has_val)
    counters = {type(callback).__name__ for callback in callbacks if isinstance(callback, ModelCheckpoint)}
    for name, metric in watched:
        if not isinstance(metric, str):
            continue
        if metric.startswith("test/"):
            raise UserError(
                f"{name} looks at `{metric}`: nothing is chosen on the test set. Hold training images out "
                f"(data.val_fraction=0.1) and look at `val/{metric.removeprefix('test/')}`."
            )
        if metric.startswith("val/") and not has_val:
            raise UserError(
                f"{name} looks at `{metric}`, and there are no held-out images; the test set is for curves only. "
                "Hold training images out: data.val_fraction=0.1."
            )
        counted = name in counters and metric in ("epoch", "step")
        if logged is not None and metric not in logged and not counted:
            raise UserError(
                f"{name} looks at `{metric}`, which is not logged.{did_you_mean(metric, logged)} "
                f"There are: {listed(logged)}."
            )


def logged_names(task: ClassificationTask, callbacks: Sequence[Callback], *, has_val: bool) -> list[str] | None:
    """Return the metrics that a choice may use: those that are logged, without those of the test set.

    Args:
        task: Logs losses and scores.
        callbacks: Log the rest.
        has_val: Whether there are held-out images to score.

    Returns:
        Their names; None where a callback of somebody else's may log others.
    """
    packages = ("bnn_lightning", "pytorch_lightning")
    if any(type(c).__module__.split(".")[0] not in packages or isinstance(c, LearningRateMonitor) for c in callbacks):
        return None
    names = [f"val/{name}" for name in task.eval_means.names if has_val]
    names += [f"train/{name}" for name in task.train_means.names]
    names += ["lr", "s_per_epoch"]
    names += [f"binary/{name}" for m in annealed(task.backbone) for name, _ in m.named_buffers(recurse=False)]
    for callback in callbacks:
        names += _logged_by(callback, task)
    return list(dict.fromkeys(names))


def _logged_by(callback: Callback, task: ClassificationTask) -> list[str]:
    if isinstance(callback, FlipRateLogger) and (layers := binary_layers(task.backbone)):
        return ["binary/flip_rate", *(f"binary/flip_rate/{name}" for name in layers if callback.per_layer)]
    if isinstance(callback, GradientShare):
        return [f"gradient/{name}" for name in task.term_names if name != "hard"]
    return ["data/damaged"] if isinstance(callback, DamagedImages) else []


def check_averages(task: ClassificationTask, callbacks: Sequence[Callback]) -> None:
    """Refuse averages of temperatures.

    Raises:
        UserError: Another average than ours is among the callbacks, whose network would not be binary.
    """
    average = next((c for c in callbacks if isinstance(c, WeightAveraging)), None)
    relaxing = any(isinstance(module, TemperatureSign) for module in task.backbone.modules())
    if relaxing and average is not None and not isinstance(average, EMAWeightAveraging):
        raise UserError(
            f"`callbacks`: {type(average).__module__}.{type(average).__name__} averages the temperatures of the "
            "binarizers, too: the average would not be binary. Take bnn_lightning.callbacks.EMAWeightAveraging."
        )


def check_binary_end(task: ClassificationTask, max_epochs: int | None) -> str | None:
    """Return the warning of a training that ends before the weights are binary."""
    late = max((m.binary_from for m in task.backbone.modules() if isinstance(m, TemperatureSign)), default=0.0)
    if max_epochs is None or max_epochs < 1:
        return None
    length = task.progress.length(max_epochs)
    epochs = max_epochs if task.progress.interval == "step" else max_epochs - 1
    if epochs / length >= late:
        return None
    return (
        f"The network will not be binary at the end: its weights become binary after {late:.3g} of the annealing's "
        f"{length} epochs, and {max_epochs} are trained. Train longer, or take a smaller "
        "model.weight_binarizer.binary_from (binarizer@model.weight_binarizer=temperature)."
    )


def relaxed(model: nn.Module) -> str | None:
    """Return the caveat on scores of a network whose annealing has not ended."""
    for module in model.modules():
        if isinstance(module, TemperatureSign):
            module.look()  # an average may have been copied into it
    unfinished = [m for m in model.modules() if isinstance(m, Binarizer) and not m.is_binary]
    if not unfinished:
        return None
    return (
        f"NOT BINARY: {len(unfinished)} binarizers ({type(unfinished[0]).__name__}) still give other values than -1 "
        "and +1. These are the scores of a relaxed network; train to the end of the annealing."
    )


def check_optimization(task: ClassificationTask) -> None:
    """Make optimizer and learning-rate scheduler once, so that what they refuse is said before training.

    Raises:
        UserError: An option that one of them refuses; or see `check_bop`.
    """
    check_bop(task)
    section = "param_groups"
    try:
        groups = task.param_groups(task)
        section = "optimizer"
        optimizer = task.optimizer(groups)
        check_hyperparameters(optimizer)
        section = "lr_scheduler"
        if task.lr_scheduler is not None:
            make_scheduler(task.lr_scheduler, optimizer, steps_per_epoch=1)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"`{section}`: {error}") from error


def check_hyperparameters(optimizer: torch.optim.Optimizer) -> None:
    """Refuse numbers that an update in float32 cannot compute with.

    Raises:
        ValueError: One is not finite, or larger than `_LARGEST`.
    """
    for group in optimizer.param_groups:
        for name, value in group.items():
            if isinstance(value, float) and not abs(value) <= _LARGEST:
                raise ValueError(
                    f"`{name}` must be finite and at most {_LARGEST:g}, for updates in float32, got {value}."
                )


def check_sizes(task: ClassificationTask, datamodule: Any, model: Node, *, trust: Sequence[str] = ()) -> None:
    """Refuse sizes of training images that the network does not take, which a later epoch would meet.

    Args:
        task: Holds the network.
        datamodule: Says the sizes.
        model: The section that the network was built from; at the least size it must be possible to build it.
        trust: See `build`.

    Raises:
        UserError: A size below the network's least; or the classifier of an MLP or of VGG-Small, which fits one size.
    """
    sizes = getattr(getattr(datamodule, "options", None), "train_sizes", None)
    if not sizes:
        return
    if "image_size" in model:
        try:
            build_on_meta({**model, "image_size": min(sizes)}, at="model", trust=trust)
        except UserError as error:
            raise UserError(f"`data.train_sizes`: {error}") from error
    network: Any = task.backbone
    for size in sorted({min(sizes), max(sizes)}):
        try:
            with evaluation(network), torch.no_grad():
                network(torch.zeros(1, datamodule.in_channels, size, size))
        except RuntimeError as error:
            raise UserError(
                f"`data.train_sizes`: {type(network).__name__} does not take images of {size} pixels ({error}). Leave "
                "it out, or take a network that averages over its last map, such as a ResNet."
            ) from error


def check_bop(task: ClassificationTask) -> None:
    """Refuse Bop for layers that do not take plain signs of their weights.

    Raises:
        UserError: A weight binarizer centers or anneals latent weights, which Bop does not have.
    """
    if getattr(task.optimizer, "func", None) is not Bop:
        return
    for name, layer in binary_layers(task.backbone).items():
        binarizer = layer.weight_binarizer
        plain = isinstance(binarizer, WeightBinarizer) and type(binarizer).latent is WeightBinarizer.latent
        if not plain or isinstance(binarizer, AnnealedBinarizer):
            raise UserError(
                f"`optimizer`: Bop holds weights at -1 and +1, and {type(binarizer).__name__} of `{name}` transforms "
                "latent weights: take binarizer@model.weight_binarizer=weight_sign."
            )


def check_compile(task: ClassificationTask, *, wanted: bool) -> str | None:
    """Return the warning that a backbone is not compiled because a distiller records its features."""
    if not wanted or not task.distiller.records:
        return None
    return (
        f"task.compile=true: {type(task.distiller).__name__} records what is inside the network, which so trains "
        "uncompiled; compiled are evaluation and runs with distill=none."
    )


def _highest(devices: Any) -> int:
    """Return the number of devices that `trainer.devices` needs; 0 if any number will do."""
    if isinstance(devices, str):
        parts = [part for part in devices.replace("[", "").replace("]", "").split(",") if part.strip()]
        if not all(part.strip().lstrip("-").isdigit() for part in parts):
            return 0
        numbers = [int(part) for part in parts]
        devices = numbers if "," in devices or "[" in devices else numbers[0]
    if isinstance(devices, list | tuple):
        return max((int(index) + 1 for index in devices), default=0)
    return max(int(devices), 0)
