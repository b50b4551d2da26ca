"""Modules that turn real values into -1 and +1."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "annealed": ["EDE", "ReSTE", "SignEDE"],
        "base": ["AnnealedBinarizer", "Binarizer", "BinarizerFactory", "InputBinarizer", "WeightBinarizer"],
        "factory": ["binarizer_factory", "binarizer_signature", "list_binarizers"],
        "learned": ["RSign"],
        "sign": ["ApproxSign", "SignIdentity", "SignSTE", "SwishSign"],
        "temperature": ["TemperatureSign"],
        "weight": ["Libra", "WeightSign", "XNORScale"],
    },
)
