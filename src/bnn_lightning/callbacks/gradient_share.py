"""Gradient norms of the loss terms, relative to the hard loss."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from bnn_lightning.metrics.means import EpochMeans
from bnn_lightning.utils.checks import check_integer


class GradientShare(Callback):
    """Log `gradient/<name>` once an epoch: the norm of each loss term's gradient over that of the term "hard".

    Measured at every `every_n_steps`-th optimizer step, on the graph of the training step itself and before its
    backward pass, and averaged over the epoch: nothing is computed twice, no random number is drawn, and the training
    is the same to the bit. It costs a backward pass a term at these steps. Gradients are those of this rank's batch;
    the shares are averaged over ranks. Where "hard" has no weight, the whole loss takes its place.

    Args:
        every_n_steps: Optimizer steps between two measurements, from step 0.

    Raises:
        ValueError: `every_n_steps` is not positive; or the backbone is compiled, whose backward pass runs once only.
    """

    def __init__(self, every_n_steps: int = 100) -> None:
        super().__init__()
        check_integer("every_n_steps", every_n_steps, 1)
        self.every_n_steps = every_n_steps
        self.means: EpochMeans | None = None
        self._loaded: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if any(module._compiled_call_impl is not None for module in pl_module.modules()):
            raise ValueError("`GradientShare` needs `compile=False`: a compiled backward pass can run only once.")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        names = [name for name, weight in weights_of(pl_module).items() if name != "hard" and weight]
        self.means = EpochMeans(names, persistent=True).to(pl_module.device)
        if self._loaded is not None:
            # The sums are those of all ranks: rank 0 takes them, the others zeros of the type that gathering expects.
            mine = self._loaded if trainer.is_global_zero else {k: torch.zeros_like(v) for k, v in self._loaded.items()}
            self.means.load_state_dict(mine)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if self.means is None or trainer.global_step % self.every_n_steps or not self.means.names:
            return
        terms: dict[str, Tensor] = pl_module.terms  # type: ignore[assignment]
        hard = terms["hard"] if weights_of(pl_module).get("hard") else torch.stack(list(terms.values())).sum()
        parameters = [parameter for parameter in pl_module.parameters() if parameter.requires_grad]
        scale = loss_scale(trainer)
        reference = gradient_norm(hard * scale, parameters)
        shares = [
            gradient_norm(terms[name] * scale, parameters) / reference if name in terms else torch.zeros_like(reference)
            for name in self.means.names
        ]
        self.means.update(shares, 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # All ranks decide alike: after a resume within the epoch, rank 0 alone has counted.
        if self.means is None or not int(trainer.strategy.reduce(self.means.count.clone(), reduce_op="sum")):
            return
        shares = self.means.compute()
        pl_module.log_dict({f"gradient/{name}": share for name, share in shares.items()})
        self.means.reset()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.means is None else self.means.total_state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict or None


def weights_of(pl_module: LightningModule) -> dict[str, float]:
    """Return the weights of the task's loss terms."""
    return pl_module.distiller.weights  # type: ignore[union-attr,return-value]


def loss_scale(trainer: Trainer) -> float:
    """Return the loss scale of fp16 training, so that small gradients survive here as they do there."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 1.0 if scaler is None else scaler.get_scale()


def gradient_norm(loss: Tensor, parameters: list[torch.nn.Parameter]) -> Tensor:
    """Return the 2-norm of the gradient, a scalar; the graph stays."""
    if not loss.requires_grad:
        return loss.new_zeros(())
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    norms = torch._foreach_norm([gradient for gradient in gradients if gradient is not None])
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm
