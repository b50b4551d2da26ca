"""Loss functions, one formula each. Pure torch."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "attention": ["attention_loss", "attention_map"],
        "cluster": ["cluster_loss"],
        "ensemble": ["gap_weighted_cross_entropy"],
        "feature": ["channel_spatial_loss", "channel_spatial_means", "flat_feature_loss", "unit_difference"],
        "soft": ["soft_cross_entropies", "soft_cross_entropy", "soft_label_kl"],
    },
)
