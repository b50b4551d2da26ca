"""Networks trained here: packed files and weights by name, each with a receipt; no torch."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "files": ["is_name", "packed_file", "weights_file"],
        "receipts": ["File", "Receipt", "ZooError", "describe", "names", "receipt"],
    },
)
