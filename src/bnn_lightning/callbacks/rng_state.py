"""Random states in checkpoints, for exact resumption."""

import random
import warnings
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer


class RNGState(Callback):
    """Keep the states of the random generators of every rank in checkpoints, and restore them when training resumes.

    Python's, NumPy's, torch's and that of the rank's own GPU. Without them a resumed run draws other dropout masks.
    With another number of ranks than in the checkpoint nothing is restored, and a warning says so.
    """

    def __init__(self) -> None:
        super().__init__()
        self._loaded: list[dict[str, Any]] | None = None

    def state_dict(self) -> dict[str, Any]:
        state = collect()
        if not (dist.is_available() and dist.is_initialized()):
            return {"ranks": [state]}
        ranks: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(ranks, state)
        return {"ranks": ranks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict["ranks"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._loaded is None:
            return
        if len(self._loaded) == trainer.world_size:
            restore(self._loaded[trainer.global_rank])
        else:
            warnings.warn(
                f"The checkpoint holds the random states of {len(self._loaded)} processes and this run has "
                f"{trainer.world_size}: they are not restored.",
                stacklevel=2,
            )
        self._loaded = None


def collect() -> dict[str, Any]:
    """Return the states of this process's generators, of types that `weights_only=True` loads."""
    version, words, gauss = random.getstate()
    numpy: Any = np.random.get_state()  # noqa: NPY002 - others may draw from it
    state: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "numpy": [numpy[0], torch.from_numpy(numpy[1].astype(np.int64)), *numpy[2:]],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore(state: dict[str, Any]) -> None:
    """Put this process's generators into a state that `collect` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
