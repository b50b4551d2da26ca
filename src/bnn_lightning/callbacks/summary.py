"""Summary of the network's parts before training."""

from typing import Any

from pytorch_lightning import callbacks
from pytorch_lightning.utilities import rank_zero_info

from bnn_lightning.utils.text import text_table

# Lightning's columns that are shown; the others are the mode, and FLOPs, which it counts for float networks only.
_COLUMNS = ("Name", "Type", "Params")
# Sums of metrics are modules of a task, and no part of the network.
_BOOKKEEPING = ("EpochMeans",)


class NetworkSummary(callbacks.ModelSummary):
    """Lightning's `ModelSummary` with the parts that are trained: no rows of metrics, and no FLOPs of 0.

    Operations of a binary network are counted by `bnn profile`.

    Args:
        max_depth: Depth of the submodules that have a row; 0 prints nothing.
    """

    def __init__(self, max_depth: int = 1) -> None:
        super().__init__(max_depth)

    @staticmethod
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        *_: Any,
        **options: Any,
    ) -> None:
        columns = dict(summary_data)
        kept = [row for row, kind in enumerate(columns["Type"]) if kind not in _BOOKKEEPING]
        table = [list(_COLUMNS), *([str(columns[name][row]).strip() for name in _COLUMNS] for row in kept)]
        lines = text_table(table)
        frozen = total_parameters - trainable_parameters
        lines.append(f"{trainable_parameters:,} parameters are trained, {frozen:,} are not; {model_size:.2f} MB")
        rank_zero_info("\n".join(lines))
