"""Loader that Lightning can stop and resume at any batch."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bnn_lightning.data.sampler import EpochSampler


class ResumableLoader:
    """Iterate over batches, and remember how many of this epoch were handed out.

    It is no `torch.utils.data.DataLoader`, so that Lightning neither replaces its sampler nor rebuilds it, and it
    follows Lightning's protocol for stateful loaders. The state is the same on all ranks. The order is computed at
    the first batch rather than when the iterator is made: Lightning makes the iterator of a resumed epoch before it
    says which epoch that is.

    Args:
        sampler: Decides the images of each batch.
        batches: Yields the batches; follows `sampler.start` and `sampler.epoch`. By default the sampler itself.
        identity: Facts that the order depends on. Resuming inside an epoch with another identity is an error.
    """

    def __init__(
        self,
        sampler: EpochSampler,
        batches: Iterable[Any] | None = None,
        *,
        identity: Mapping[str, int | bool] | None = None,
    ) -> None:
        self.sampler = sampler
        # Lightning asks whatever has a `sampler` for this too.
        self.batch_sampler = None
        self._batches = sampler if batches is None else batches
        self._identity = dict(identity or {})
        self._epoch = 0
        self._position = 0
        self._resume: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        self._epoch, self._position = self.sampler.epoch, 0
        if self._resume is not None:
            epoch, position = self._resume
            self._position = position if epoch == self._epoch else 0
            self._resume = None
        self.sampler.start = self._position
        for batch in self._batches:
            self._position += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position: the epoch and the number of its batches that were handed out."""
        epoch, position = self._resume or (self._epoch, self._position)
        return {"epoch": epoch, "position": position, "length": len(self), "identity": dict(self._identity)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at the saved position when the saved epoch comes; another epoch starts at its beginning.

        Raises:
            ValueError: The position is inside an epoch whose batches were made from other values.
        """
        epoch, position, identity = int(state["epoch"]), int(state["position"]), state["identity"]
        if 0 < position < int(state["length"]) and identity != self._identity:
            names = sorted(k for k in {*identity, *self._identity} if identity.get(k) != self._identity.get(k))
            changed = ", ".join(f"`{k}` was {identity.get(k)} and is {self._identity.get(k)}" for k in names)
            raise ValueError(
                f"The checkpoint was saved inside epoch {epoch}, after {position} of {state['length']} batches, and "
                f"cannot be continued there: {changed}. Restore these values, or resume from an epoch's end."
            )
        self._resume = (epoch, position)
