"""Means over the samples of an epoch."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric


class EpochMeans(Metric):
    """Named means over all samples of an epoch, and of all ranks.

    The state is made of sums and a count, so that no sample weighs more than another, and travels in checkpoints if
    `persistent`: an epoch that was interrupted then ends with the numbers of one that was not. An update does not
    synchronize with the host.

    Args:
        names: Names of the averages.
        persistent: Whether the state is part of the state dict.

    Example:
        >>> means = EpochMeans(["loss", "acc"])
        >>> means.update([torch.tensor(3.0), torch.tensor(1)], 2)
        >>> means.update([torch.tensor(1.0), torch.tensor(2)], 2)
        >>> {name: float(value) for name, value in means.compute().items()}
        {'loss': 1.0, 'acc': 0.75}
    """

    full_state_update = False
    sums: Tensor
    count: Tensor

    def __init__(self, names: Sequence[str], *, persistent: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = tuple(names)
        self.add_state("sums", torch.zeros(len(self.names)), dist_reduce_fx="sum", persistent=persistent)
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum", persistent=persistent)

    def update(self, sums: Sequence[Tensor], num_samples: int) -> None:
        """Take in a batch.

        Args:
            sums: For each name a scalar, summed over the batch.
            num_samples: Size of the batch.
        """
        values = torch.stack([value.detach().to(precise(value)) for value in sums])
        self.sums = self.sums + values  # not in place: the state takes on the precision of `values`
        self.count = self.count + num_samples

    def compute(self) -> dict[str, Tensor]:
        """Return the means, scalars by name; NaN before the first update."""
        return dict(zip(self.names, (self.sums / self.count).unbind(), strict=True))

    def total_state(self, prefix: str = "") -> dict[str, Any]:
        """Return the state dict of all ranks' sums; to be called on all of them. One rank alone is to load it."""
        with self.sync_context(should_sync=dist.is_available() and dist.is_initialized()):
            return self.state_dict(prefix=prefix)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        sums = state_dict.get(f"{prefix}sums")
        if sums is not None and len(sums) < len(self.names):  # written before the last of these names was counted
            state_dict[f"{prefix}sums"] = torch.nn.functional.pad(sums, (0, len(self.names) - len(sums)))
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._update_count = int(self.count > 0)  # torchmetrics does not save it, and warns before the first update


def precise(value: Tensor) -> torch.dtype:
    """Return the widest floating-point type of the value's device; Apple's has no float64."""
    return torch.float32 if value.device.type == "mps" else torch.float64
