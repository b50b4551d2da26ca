"""Drop-in torch layers with binary weights and activations."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "activation": ["Hardtanh", "LearnableBias", "Maxout", "PReLU", "RPReLU"],
        "attention": ["ChannelBlend", "SqueezeExcite"],
        "binary": ["BinaryLayer"],
        "conv": ["BinaryConv1d", "BinaryConv2d", "BinaryConv3d"],
        "conv_transpose": ["BinaryConvTranspose2d"],
        "linear": ["BinaryLinear"],
        "pool": ["BlurPool2d"],
        "quantized": ["QuantConv2d", "QuantLinear"],
        "module_utils": [
            "annealed",
            "binary_layers",
            "clip_latent_",
            "clip_channel_blends_",
            "is_binary",
            "latent_weights",
        ],
    },
)
