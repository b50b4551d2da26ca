"""Pure functions of tensors."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "annealing": ["ede_sharpness", "geometric_temperature"],
        "elementwise": ["concatenate", "hardtanh_", "prelu", "spatial_mean", "spatial_mean_of_halves"],
        "quantize": ["minmax_quantize"],
        "recompute": ["Cheap", "call", "cheap"],
        "scale": ["divide_gradient", "libra_standardise", "power_of_two_scale", "xnor_scale"],
        "sign": [
            "approx_sign",
            "reste",
            "sign_ede",
            "sign_identity",
            "sign_ste",
            "swish_sign",
            "temperature_sign",
        ],
        "stats": ["count_flips", "sign_entropy"],
    },
)
