"""Parameter groups and learning-rate schedulers: small callables, each an option of its own."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "bop": ["Bop"],
        "groups": ["default_groups"],
        "lr_schedulers": ["constant", "linear", "warmup_cosine"],
    },
)
