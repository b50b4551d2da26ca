"""Commands: from a configuration to objects and back. The only room that knows Hydra."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "build": ["build_datamodule", "build_task"],
        "checkpoint": ["load_task"],
        "errors": ["UserError"],
    },
)
