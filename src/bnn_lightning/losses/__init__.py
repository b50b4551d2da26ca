"""Loss functions, one formula each. Pure torch."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "cluster": ["cluster_loss"],
        "feature": ["channel_spatial_loss", "flat_feature_loss"],
        "soft": ["soft_cross_entropy", "soft_label_kl"],
    },
)
