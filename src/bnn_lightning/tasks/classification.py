"""Image classification."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from bnn_lightning.data.image_io import DamagedImageError
from bnn_lightning.data.mixup_cutmix import MixupCutmix
from bnn_lightning.distill.base import Batch, Distiller, HardLabels, Outputs
from bnn_lightning.layers.module_utils import annealed, in_channels_last, prefers_channels_last, to_channels_last_
from bnn_lightning.layers.recompute import check_recomputable, recomputed
from bnn_lightning.losses.soft import at_least_float32
from bnn_lightning.metrics.accuracy import count_correct
from bnn_lightning.metrics.means import EpochMeans, precise
from bnn_lightning.tasks.class_weights import ClassWeights, check_class_weights, weights_of_classes
from bnn_lightning.tasks.labels import check_classes, class_labels
from bnn_lightning.tasks.progress import Interval, TrainingProgress
from bnn_lightning.tasks.ranks import add_up_over_ranks, buffers_of_banks, keep_on_one_rank, share_buffers
from bnn_lightning.tasks.scheduler import jump_of_schedules, make_scheduler
from bnn_lightning.tasks.sharding import shard
from bnn_lightning.tasks.steps import steps_per_epoch
from bnn_lightning.tasks.tuners import refuse_tuners

ParamGroups = Callable[[nn.Module], list[dict[str, Any]]]


class ClassificationTask(LightningModule):
    """Train and score a backbone.

    Logged once an epoch, as means over all of its samples and all ranks: `train/loss`, the weighted terms
    `train/loss_<name>` that it is the sum of, `train/<name>` for what the distiller measures beside them, `train/acc`,
    `lr` (of the epoch's last step, first group), `s_per_epoch` (training without validation), and `val/loss`,
    `val/acc`, `val/acc_top5`. A data module without a held-out split (`has_val` is False) validates on the test set:
    then these are `test/*`, curves on which nothing may be chosen.
    The annealed quantities of binarizers are logged as of the epoch's last step: `binary/temperature`, `binary/t`
    (EDE), `binary/power` (ReSTE), `binary/tau` (ReCU); where binarizers of a kind differ, that of the first.
    `train/loss_step` is the loss of a batch, of this rank, every `log_every_n_steps` steps.

    The epoch's sums are in the state dict: an epoch that was interrupted ends with the numbers of one that was not.

    Args:
        backbone: Network from images in [0, 1], (N, C, H, W), to logits, (N, num_classes).
        num_classes: Width of the logits.
        optimizer: Called with the parameter groups.
        param_groups: Called with the task; returns parameter groups. None means one group of everything trainable.
        lr_scheduler: Learning-rate scheduler. Called with the optimizer, and with `steps_per_epoch` where it takes
            that; returns a scheduler of torch (`partial(StepLR, step_size=10)`), or a dictionary of Lightning's.
        distiller: Named losses and their weights; None means cross-entropy with the labels.
        label_smoothing: Label smoothing of the cross-entropy with labels, in [0, 1). Distillers have their own.
        compile: Compile the backbone, in place: the names in checkpoints stay.
        channels_last: Memory format of images and filters. None: channels_last where the network has 2-d convolutions.
        mix: Mixes the images of a training batch with each other; `train/acc` then counts the class with the largest
            share. None mixes nothing.
        checkpoint_activations: Keep the inputs of the backbone's blocks only, and compute the rest again in backward:
            less memory for about a third more time.
        class_weights: Weights of the classes in the hard loss, of the student and of any distiller: one number a class,
            or "balanced": images / (classes x images of the class), counted among the training images. Scores and the
            losses of evaluation are not weighted.
        progress_epochs: Length of what annealed binarizers and distillers follow; None is the trainer's `max_epochs`.
        progress_interval: Whether they are told at the start of every "epoch" or before every optimizer "step".

    Raises:
        ValueError: `label_smoothing` is given beside a distiller, or `checkpoint_activations` beside `compile` or for a
            backbone without blocks.

    Example:
        >>> from functools import partial
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        >>> task = ClassificationTask(net, num_classes=3, optimizer=partial(torch.optim.SGD, lr=0.1))
        >>> task(torch.rand(2, 1, 4, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        num_classes: int,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        param_groups: ParamGroups | None = None,
        lr_scheduler: Callable[..., Any] | None = None,
        distiller: Distiller | None = None,
        label_smoothing: float = 0.0,
        compile: bool = False,
        channels_last: bool | None = None,
        mix: MixupCutmix | None = None,
        checkpoint_activations: bool = False,
        class_weights: ClassWeights = None,
        progress_epochs: int | None = None,
        progress_interval: Interval = "epoch",
    ) -> None:
        super().__init__()
        if distiller is not None and label_smoothing:
            raise ValueError(
                f"`label_smoothing` is an option of the distiller where there is one, got {label_smoothing} beside "
                f"{type(distiller).__name__}: set the distiller's own, and 0 here."
            )
        if checkpoint_activations:
            check_recomputable(backbone, compile=compile)
        self.backbone = backbone
        self.distiller = HardLabels(label_smoothing) if distiller is None else distiller
        self._ddp_params_and_buffers_to_ignore = buffers_of_banks(self)  # read by torch's DDP, which broadcasts buffers
        self.num_classes = num_classes
        self.optimizer, self.param_groups, self.lr_scheduler = optimizer, param_groups or one_group, lr_scheduler
        self.channels_last = prefers_channels_last(backbone) if channels_last is None else channels_last
        self.mix = mix
        self.checkpoint_activations = checkpoint_activations
        self.progress = TrainingProgress(progress_epochs, interval=progress_interval)
        self.class_weights = check_class_weights(class_weights, num_classes, self.distiller)
        if self.channels_last:
            to_channels_last_(self.backbone)
        if compile:
            self.backbone.compile()
        self.term_names = tuple(name for name, weight in self.distiller.weights.items() if weight)
        terms = [f"loss_{name}" for name in self.term_names]
        self.train_means = EpochMeans(["loss", *terms, *self.distiller.measures, "acc", "acc_top5"], persistent=True)
        self.eval_means = EpochMeans(["loss", "acc", "acc_top5"])
        self.terms: dict[str, Tensor] = {}  # of the running step, weighted, with their graph
        self.checkpoint_extras: dict[str, Any] = {}  # plain containers that every checkpoint carries
        self._loss: Tensor | None = None  # of the running step, until it is logged
        self._lr: float | None = None
        self._seconds: float | None = None
        self._clock = 0.0
        self._warned = False

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (N, num_classes) from images (N, C, H, W) in [0, 1]."""
        if self.channels_last:
            images = in_channels_last(images)
        return self.backbone(images)  # type: ignore[no-any-return]

    def setup(self, stage: str) -> None:
        refuse_tuners(self.trainer.callbacks)  # type: ignore[attr-defined]
        if stage == "fit":
            self.weigh_classes(getattr(self.trainer, "datamodule", None))

    def weigh_classes(self, datamodule: Any) -> None:
        """Give the hard loss its class weights, which may depend on the training images.

        Args:
            datamodule: Set up for training.

        Raises:
            ValueError: Balanced weights, and a data module without `training_labels`, or a class without an image.
        """
        weights = weights_of_classes(self.class_weights, datamodule, self.num_classes)
        self.distiller.class_weights = None if weights is None else weights.to(self.device)

    def configure_model(self) -> None:
        # Set by `FullyShardedStrategy`, which needs this hook; nothing otherwise.
        if self.device_mesh is not None:
            shard(self.backbone, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.optimizer(self.param_groups(self))
        if self.lr_scheduler is None:
            return optimizer
        scheduler = make_scheduler(self.lr_scheduler, optimizer, steps_per_epoch=steps_per_epoch(self.trainer))
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    # Training

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        given = Batch(*batch)
        seen = self._mixed(given._replace(labels=class_labels(given.labels)), batch_idx)
        recomputing = recomputed(self.backbone) if self.checkpoint_activations else nullcontext()
        with recomputing, self.distiller.watch(self.backbone) as taps:
            logits = self(seen.images)
        losses = self.distiller(seen, Outputs(logits, taps.features, taps))
        self.terms = {name: self.distiller.weights[name] * loss for name, loss in losses.items()}
        first, *rest = self.terms.values()
        loss: Tensor = sum(rest, start=first)
        self._count(loss, logits.detach(), seen.labels)
        self._loss = loss.detach()
        if self._is_logged():
            self._log_step()
        return loss

    def _is_logged(self) -> bool:
        """Whether Lightning writes the running step to the loggers: its `log` costs as much as a small layer."""
        if (trainer := self._trainer) is None:  # a step without a Trainer
            return True
        fast: bool = trainer.fast_dev_run  # type: ignore[attr-defined]
        return bool(trainer._logger_connector.should_update_logs or fast)

    def _log_step(self) -> None:
        assert self._loss is not None
        self.log("train/loss_step", self._loss, on_step=True, on_epoch=False, prog_bar=True)
        self._loss = None

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # A callback may have ended the training in this step, which Lightning then writes, too.
        if self._loss is not None and self._is_logged():
            self._log_step()

    def _mixed(self, batch: Batch, number: int) -> Batch:
        if self.mix is None:
            return batch
        place = {"epoch": self.current_epoch, "batch": number, "rank": self.global_rank}
        return Batch(*self.mix(batch.images, batch.labels, self.num_classes, **place))

    def _count(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a training step to the epoch's sums, without a host synchronization."""
        number, absent = labels.shape[0], loss.new_zeros(())
        sums = [loss * number, *[self.terms.get(name, absent) * number for name in self.term_names]]
        sums += [self.distiller.measured[name] * number for name in self.distiller.measures]
        sums += [count_correct(logits, labels), count_correct(logits, labels, 5)]
        self.train_means.update(sums, number)

    @property
    def follows_progress(self) -> bool:
        """Whether a binarizer or the distiller changes in the course of the training."""
        return self.distiller.follows_progress or next(annealed(self), None) is not None

    def _tell_progress(self, interval: Interval, batch_idx: int = 0) -> None:
        if self.progress.interval != interval or not self.follows_progress:
            return
        if (progress := self.progress.now(self.trainer, batch_idx)) is not None:
            for binarizer in annealed(self):
                binarizer.set_progress(progress)
            self.distiller.set_progress(progress)

    def on_train_start(self) -> None:
        # Lightning leaves out `on_train_epoch_start` when it resumes within an epoch.
        self._tell_progress("epoch")

    def on_after_backward(self) -> None:
        self.terms = {}  # lets go of the graph

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        check_classes(batch[1], self.num_classes, first=batch_idx == 0)
        # Read before the step: when the epoch's metrics are logged, the learning rate has moved on to the next one.
        self._lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        self._tell_progress("step", batch_idx)
        if batch_idx == 0 and self._num_seen():
            # Resumed from a checkpoint of after an epoch's last step and before its end, which Lightning leaves out.
            self.distiller.end_epoch()
            self.train_means.reset()

    def on_train_epoch_start(self) -> None:
        self._tell_progress("epoch")
        if not self._warned and (warning := jump_of_schedules(self.trainer)) is not None:
            self._warned = True
            rank_zero_warn(warning)
        self._seconds, self._clock = 0.0, time.perf_counter()

    def on_train_epoch_end(self) -> None:
        if self._num_seen():  # 0 when Lightning repeats the end of an epoch (resumed with `max_steps`)
            means = {f"train/{name}": value for name, value in self.train_means.compute().items()}
            # Equal on all ranks already. Lightning's `sync_dist` reduces when a value is first read: by the progress
            # bar of rank 0 alone, while the other ranks are elsewhere.
            self.log_dict(means | self._epoch_facts() | self._annealed_quantities())
            self.train_means.reset()
            self.distiller.end_epoch()

    def _num_seen(self) -> int:
        """Number of samples that all ranks have taken into the epoch's sums."""
        return int(self.trainer.strategy.reduce(self.train_means.count.clone(), reduce_op="sum"))

    def _epoch_facts(self) -> dict[str, Tensor]:
        facts = {} if self._lr is None else {"lr": float(self._lr)}
        if self._seconds is not None:  # an epoch that this process has seen from its start
            facts["s_per_epoch"] = self._seconds + time.perf_counter() - self._clock
        dtype = precise(self.train_means.count)
        return {name: torch.tensor(fact, dtype=dtype, device=self.device) for name, fact in facts.items()}

    def _annealed_quantities(self) -> dict[str, Tensor]:
        quantities: dict[str, Tensor] = {}
        for binarizer in annealed(self):
            for name, quantity in binarizer.named_buffers(recurse=False):
                quantities.setdefault(f"binary/{name}", quantity)
        return quantities

    # Evaluation

    @property
    def eval_prefix(self) -> str:
        """Prefix of the metrics of the validation loop: "val", or "test" where that is the test set."""
        has_val = getattr(getattr(self.trainer, "datamodule", None), "has_val", True)
        return "val" if has_val else "test"

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        check_classes(batch[1], self.num_classes, first=batch_idx == 0)

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.on_validation_batch_start(batch, batch_idx)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        labels = class_labels(labels)
        logits = self(images)
        loss = nn.functional.cross_entropy(at_least_float32(logits), labels, reduction="sum")
        self.eval_means.update([loss, count_correct(logits, labels), count_correct(logits, labels, 5)], labels.shape[0])

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the logits (N, num_classes) of a batch: images, or images with labels."""
        return self(batch if isinstance(batch, Tensor) else batch[0])  # type: ignore[no-any-return]

    def on_validation_start(self) -> None:
        if self._seconds is not None:
            self._seconds += time.perf_counter() - self._clock

    def on_validation_end(self) -> None:
        self._clock = time.perf_counter()

    def on_validation_epoch_start(self) -> None:
        share_buffers(self.backbone)
        self.eval_means.reset()

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def on_predict_epoch_start(self) -> None:
        share_buffers(self.backbone)

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation(self.eval_prefix)

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def _log_evaluation(self, prefix: str) -> None:
        means = self.eval_means.compute()
        if means["acc"].isnan():  # of no image; NaN logits have an accuracy
            raise DamagedImageError(f"Every image of the {prefix} set is damaged: there is nothing to score.")
        for name, value in means.items():
            self.log(f"{prefix}/{name}", value, prog_bar=name == "acc")
        self.eval_means.reset()

    # Checkpoints

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = "cpu", *, strict: bool = True, **arguments: Any
    ) -> Self:
        """Rebuild a task with a checkpoint's weights from the parts that Python gives.

        Args:
            checkpoint_path: A checkpoint of this task.
            map_location: As in `torch.load`.
            strict: As in `load_state_dict`. The state of a distiller is left out where none is given.
            **arguments: Those of the class; `num_classes` may be left out if the backbone or the checkpoint says it.

        Raises:
            TypeError: `backbone` or `optimizer` is missing. `bnn_lightning.load_task(path)` needs neither: it builds
                them from the configuration that `bnn train` writes into its checkpoints.
        """
        missing = [name for name in ("backbone", "optimizer") if name not in arguments]
        if missing:
            raise TypeError(
                f"{cls.__name__}.load_from_checkpoint needs {' and '.join(f'`{name}=`' for name in missing)}, as a "
                f"checkpoint holds weights. bnn_lightning.load_task({str(checkpoint_path)!r}) needs neither for a "
                "checkpoint of `bnn train`."
            )
        checkpoint = torch.load(checkpoint_path, map_location=map_location, weights_only=True)
        config = checkpoint.get("bnn_lightning_config", {}).get("task", {})
        known = getattr(arguments["backbone"], "num_classes", None) or config.get("num_classes")
        task = cls(**{"num_classes": known, **arguments} if known else arguments)
        state = checkpoint["state_dict"]
        if arguments.get("distiller") is None:
            state = {
                name: value for name, value in state.items() if not name.startswith(("distiller.", "train_means."))
            }
            state |= {n: v for n, v in task.state_dict().items() if n.startswith("train_means.")}
        task.load_state_dict(state, strict=strict)
        return task

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.distiller.sync()
        add_up_over_ranks(self.train_means, self.distiller, checkpoint)
        checkpoint.update(self.checkpoint_extras)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        keep_on_one_rank(self.train_means, self.global_rank, checkpoint)


def one_group(model: nn.Module) -> list[dict[str, Any]]:
    """Return one group of all parameters that require a gradient."""
    return [{"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}]
