"""Metrics: sign flips, operations, memory, energy."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "accuracy": ["count_correct"],
        "conventions": [
            "ace",
            "binary_mac_share",
            "binary_share",
            "degree_of_binarization",
            "operations",
            "size_bytes",
        ],
        "energy": ["Energy", "estimate_energy"],
        "flips": ["FlipRate"],
        "means": ["EpochMeans"],
        "memory": ["activation_peak", "norm_statistics"],
        "ops": ["LayerOps", "OpCount", "count_ops", "ops_table"],
        "profile": [
            "Profile",
            "profile_csv",
            "profile_json",
            "profile_line",
            "profile_network",
            "profile_rows",
            "profile_text",
        ],
    },
)
