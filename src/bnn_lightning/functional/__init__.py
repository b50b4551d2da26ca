"""Pure functions of tensors."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "adabin": ["adabin_sign", "center_and_deviation"],
        "annealing": ["ede_sharpness", "geometric_temperature", "recu_tau"],
        "elementwise": ["concatenate", "hardtanh_", "maxout", "prelu", "spatial_mean", "spatial_mean_of_halves"],
        "quantize": ["dorefa_activation", "dorefa_weight", "minmax_quantize", "ternary_threshold", "ternary_weight"],
        "recompute": ["Recomputable", "call", "recomputable"],
        "recu": ["image_standardize", "recu_clamp", "recu_standardize"],
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
        "stats": ["sign_entropy"],
    },
)
