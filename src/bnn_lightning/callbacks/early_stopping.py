"""Early stopping by the scores of binary epochs."""

from typing import Any, Literal

from pytorch_lightning import callbacks

from bnn_lightning.callbacks.while_binary import WhileBinary


class EarlyStopping(WhileBinary, callbacks.EarlyStopping):
    """Lightning's `EarlyStopping`, which passes over epochs in which the network is not binary yet.

    A network whose weights become binary in the course of training scores better before: patience would run out on
    scores that the binary network does not reach. It starts with the first binary epoch.

    Args:
        monitor: Metric to stop by, such as `val/acc`.
        mode: "max" or "min".
        patience: Epochs without a better one.
        min_delta: By how much one must be better to count.
        **options: Others of Lightning's.
    """

    def __init__(
        self,
        monitor: str,
        *,
        mode: Literal["max", "min"] = "max",
        patience: int = 20,
        min_delta: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(monitor, mode=mode, patience=patience, min_delta=min_delta, **options)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        patience = self.patience
        super().load_state_dict(state_dict)
        self.patience = patience  # that of a resumed run is its own, which Lightning replaces by the checkpoint's
