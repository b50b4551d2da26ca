"""Callbacks that a run needs, and callbacks that it cannot have."""

from collections.abc import Mapping
from typing import Any

from bnn_lightning.workflows.errors import UserError

# By key of `callbacks`: what is lost without it. Annealing and turns of teachers are checked where a network has them.
NEEDED = {
    "rng_state": "a resumed run would draw other random numbers",
    "last_checkpoint": "the run could not be resumed",
    "final_checkpoint": "the trained network would be lost",
}


def check_needed(callbacks: Mapping[str, Any] | None) -> None:
    """Refuse a configuration without the callbacks that every run needs.

    Args:
        callbacks: The section, as plain containers.

    Raises:
        UserError: One of them was set to null or deleted.
    """
    for key, loss in NEEDED.items():
        if not (callbacks or {}).get(key):
            raise UserError(
                f"`callbacks.{key}` must not be null or missing: {loss}. Its settings may be changed; `callbacks=none` "
                "leaves out all that a run can do without."
            )
