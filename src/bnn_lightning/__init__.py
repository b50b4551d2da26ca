"""Binary neural networks: train, distil and deploy."""

from bnn_lightning.utils.lazy import attach

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "layers.binarize": ["binarize"],
        "workflows": [
            *("UserError", "benchmark", "evaluate", "export", "load_task", "predict", "prepare", "profile", "rank"),
            *("report", "verify"),
        ],
    },
)
