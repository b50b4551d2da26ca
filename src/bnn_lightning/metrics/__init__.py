"""What is counted."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "accuracy": ["count_correct"],
        "flips": ["FlipRate"],
        "means": ["EpochMeans"],
        "ops": ["LayerOps", "OpCount", "count_ops", "ops_table"],
    },
)
