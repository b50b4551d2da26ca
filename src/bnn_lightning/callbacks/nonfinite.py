"""Handling of losses that are NaN or infinite."""

from copy import deepcopy
from typing import Any, Literal

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torchmetrics import Metric

from bnn_lightning.utils.hardware import is_distributed


class NonFiniteLossError(RuntimeError):
    """The loss, or a weight, is not finite."""

    def __init__(self, what: str, step: int, epoch: int) -> None:
        super().__init__(f"{what} is not finite (NaN or infinite) at step {step}, in epoch {epoch}.")


class NonFiniteLoss(Callback):
    """End the training when the loss is not finite, or leave such steps out.

    "raise" does not wait for the device at every step: it looks every `trainer.log_every_n_steps` batches, where the
    loss is read for the loggers, and before anything is validated or saved. Weights are looked at as well before they
    are saved, so that no checkpoint holds weights that are not finite. "skip" looks at every optimizer step: where the
    loss was not finite, the weights, the optimizer, the batch statistics, the distiller's memory and the epoch's means
    stay as if the step's batches had not been there.

    Args:
        action: "raise", or "skip".

    Raises:
        ValueError: An unknown action.
        NonFiniteLossError: In the training.
    """

    def __init__(self, action: Literal["raise", "skip"] = "raise") -> None:
        super().__init__()
        if action not in ("raise", "skip"):
            raise ValueError(f"`action` must be one of ['raise', 'skip'], got {action!r}.")
        self.action, self.skipped = action, 0
        self._bad_step: Tensor | None = None  # the first step with a bad loss, on the device; infinite: none
        self._buffers: dict[str, Tensor] = {}  # as they were before the step
        self._metrics: list[tuple[Metric, dict[str, Any]]] = []  # whose states are no buffers

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._forget(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.action == "skip" and batch_idx % trainer.accumulate_grad_batches == 0:
            self._buffers = {name: buffer.detach().clone() for name, buffer in pl_module.named_buffers()}
            metrics = (module for module in pl_module.modules() if isinstance(module, Metric))
            self._metrics = [(metric, deepcopy(metric.metric_state)) for metric in metrics]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        assert self._bad_step is not None
        now = torch.where(torch.isfinite(loss.detach()).all(), torch.inf, float(trainer.global_step))
        self._bad_step = torch.minimum(self._bad_step, now.to(self._bad_step))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self.action != "skip" or self._first_bad() is None:
            return
        for parameter in pl_module.parameters():
            parameter.grad = None  # which optimizers pass over
        with torch.no_grad():
            for name, buffer in pl_module.named_buffers():
                buffer.copy_(self._buffers[name])
        for metric, state in self._metrics:
            vars(metric).update(state)
        self.skipped += 1
        self._forget(pl_module)
        rank_zero_warn(f"The loss is not finite at step {trainer.global_step}: the step is left out.")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % max(1, trainer.log_every_n_steps) == 0:  # type: ignore[attr-defined]
            self._check_loss(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._check(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]

    def _check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_loss(trainer)
        if not trainer.strategy.reduce_boolean_decision(all_finite(pl_module)):
            raise NonFiniteLossError("A weight", trainer.global_step, trainer.current_epoch)

    def _check_loss(self, trainer: Trainer) -> None:
        if self.action == "raise" and (step := self._first_bad()) is not None:
            raise NonFiniteLossError("The loss", step, trainer.current_epoch)

    def _first_bad(self) -> int | None:
        """Return the first step with a bad loss since the last one, on any rank; to be called on all of them."""
        if self._bad_step is None:  # nothing was trained
            return None
        if is_distributed():
            dist.all_reduce(self._bad_step, op=dist.ReduceOp.MIN)
        step = float(self._bad_step)
        return None if step == float("inf") else int(step)

    def _forget(self, pl_module: LightningModule) -> None:
        self._bad_step = torch.full((), torch.inf, device=pl_module.device)


@torch.no_grad()
def all_finite(module: LightningModule) -> bool:
    """Whether all parameters, or this rank's shares of them (FSDP), are finite; waits for the device once."""
    shares = [p.to_local() if isinstance(p, DTensor) else p for p in module.parameters()]
    finite = [torch.isfinite(share).all() for share in shares]
    return bool(torch.stack(finite).all()) if finite else True
