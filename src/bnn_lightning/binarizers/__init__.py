"""Modules that turn real values into -1 and +1, or into a few whole numbers."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "adabin": ["AdaBinInput", "AdaBinWeights"],
        "annealed": ["EDE", "ReSTE", "SignEDE"],
        "base": ["AnnealedBinarizer", "Binarizer", "BinarizerFactory", "InputBinarizer", "WeightBinarizer"],
        "factory": ["binarizer_factory", "binarizer_signature", "list_binarizers"],
        "few_bits": ["DoReFaInput", "DoReFaWeights", "TernaryWeights"],
        "learned": ["RSign"],
        "recu": ["ReCUInput", "ReCUWeights"],
        "sign": ["ApproxSign", "SignIdentity", "SignSTE", "SwishSign"],
        "temperature": ["TemperatureSign"],
        "weight": ["Libra", "WeightSign", "XNORScale"],
    },
)
