"""Loss functions, one formula each. Pure torch."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "cluster": ["cluster_loss"],
        "feature": ["channel_spatial_loss", "channel_spatial_means", "flat_feature_loss", "unit_difference"],
        "soft": ["soft_cross_entropy", "soft_label_kl"],
    },
)
