"""The soft-label bank: one soft label a class, from the predictions of the last epoch."""

from collections.abc import Callable
from typing import Any, Literal, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bnn_lightning.losses.soft import at_least_float32
from bnn_lightning.utils.checks import check_choice, check_integer
from bnn_lightning.utils.hardware import is_distributed

BankMode = Literal["correct", "all"]


class SoftLabelBank(nn.Module):
    """Mean logits of each class over the correctly classified training samples of the previous epoch.

    All state is in buffers, so that a run resumed in mid-epoch goes on exactly. Under `torch.distributed` each rank
    gathers its own samples outside of them (DDP overwrites buffers with those of rank 0), and `sync` adds these up
    over all ranks, once an epoch in `commit`.

    Args:
        num_classes: C.
        mode: "correct" takes in correct predictions only ("dynamic filtering"), "all" takes in every one.

    Attributes:
        bank: (C, C) mean logits; row = true class, column = logit. Zeros at first.
        valid: (C,) boolean, whether a row has ever been filled.
        sums: (C, C) sums of logits of the running epoch.
        counts: (C,) their numbers.

    Example:
        >>> bank = SoftLabelBank(2)
        >>> bank.update(torch.tensor([[3.0, 1.0], [1.0, 0.0], [5.0, 0.0]]), torch.tensor([0, 0, 1]))
        >>> bank.commit()
        >>> target, valid = bank.target(torch.tensor([0, 1]))
        >>> target, valid
        (tensor([[2.0000, 0.5000], [0.0000, 0.0000]]), tensor([ True, False]))

    References:
        Zeng et al., SKD-BNN, Applied Intelligence 54, 2024.
    """

    bank: Tensor
    valid: Tensor
    sums: Tensor
    counts: Tensor

    def __init__(self, num_classes: int, mode: BankMode = "correct") -> None:
        super().__init__()
        check_integer("num_classes", num_classes, 1)
        check_choice("mode", mode, BankMode)
        self.num_classes = num_classes
        self.mode = mode
        self.register_buffer("bank", torch.zeros(num_classes, num_classes))
        self.register_buffer("valid", torch.zeros(num_classes, dtype=torch.bool))
        self.register_buffer("sums", torch.zeros(num_classes, num_classes))
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.int64))
        self._own: tuple[Tensor, Tensor] | None = None  # of this rank, since the last `sync`

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Take in the predictions of a training step.

        Args:
            logits: Shape (N, C).
            labels: Shape (N,).

        Raises:
            ValueError: The logits are not of `num_classes` classes.
        """
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise ValueError(f"`logits` must have shape (N, {self.num_classes}), got {list(logits.shape)}.")
        sums, counts = self._accumulators()
        taken = logits.argmax(1) == labels if self.mode == "correct" else torch.ones_like(labels, dtype=torch.bool)
        # `where`, not a product: a wrong prediction may hold inf or NaN.
        logits = torch.where(taken[:, None], at_least_float32(logits), 0.0)
        sums.index_add_(0, labels, logits.to(sums.dtype))
        counts.index_add_(0, labels, taken.to(counts.dtype))

    def _accumulators(self) -> tuple[Tensor, Tensor]:
        if not is_distributed():
            return self.sums, self.counts
        if self._own is None:
            self._own = torch.zeros_like(self.sums), torch.zeros_like(self.counts)
        return self._own

    @torch.no_grad()
    def sync(self) -> None:
        """Add up over all ranks what was gathered; to be called on all of them."""
        if not is_distributed():
            return
        for total, own in zip((self.sums, self.counts), self._accumulators(), strict=True):
            dist.all_reduce(own)
            total.add_(own)
        self._own = None

    @torch.no_grad()
    def commit(self) -> None:
        """End the epoch: replace the rows of all classes that were taken in at least once; keep the others."""
        self.sync()
        filled = self.counts > 0
        means = self.sums / self.counts.clamp_min(1)[:, None]
        self.bank.copy_(torch.where(filled[:, None], means, self.bank))
        self.valid.logical_or_(filled)
        self.sums.zero_()
        self.counts.zero_()

    def target(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the soft labels of a batch.

        Args:
            labels: Shape (N,), or the shares of the classes in mixed images, (N, C).

        Returns:
            Target logits (N, C), and which of them are valid, (N,) boolean.
        """
        if labels.ndim == 2:
            with torch.autocast(labels.device.type, enabled=False):
                target = labels.to(self.bank.dtype) @ self.bank
            return target, ~((labels > 0) & ~self.valid).any(1)
        return self.bank.index_select(0, labels), self.valid.index_select(0, labels)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # Sums of thousands of logits do not fit into half precision (`precision=bf16-true` converts all buffers).
        self.bank, self.sums = at_least_float32(self.bank), at_least_float32(self.sums)
        if self._own is not None:
            self._own = self._own[0].to(self.sums), self._own[1].to(self.counts)
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._own = None

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, mode={self.mode!r}"
