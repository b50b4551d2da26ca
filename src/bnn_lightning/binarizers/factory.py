"""Binarizers by name, for configs and backbones."""

import inspect
from functools import partial
from typing import Any

from torch import nn

from bnn_lightning.binarizers import adabin, annealed, few_bits, learned, recu, sign, temperature, weight
from bnn_lightning.binarizers.base import Binarizer, BinarizerFactory
from bnn_lightning.utils.text import did_you_mean

_BINARIZERS: dict[str, type[Binarizer]] = {
    cls.__name__: cls
    for cls in (
        adabin.AdaBinInput,
        adabin.AdaBinWeights,
        few_bits.DoReFaInput,
        few_bits.DoReFaWeights,
        few_bits.TernaryWeights,
        recu.ReCUInput,
        recu.ReCUWeights,
        sign.ApproxSign,
        sign.SignIdentity,
        sign.SignSTE,
        sign.SwishSign,
        annealed.ReSTE,
        annealed.SignEDE,
        learned.RSign,
        temperature.TemperatureSign,
        weight.Libra,
        weight.WeightSign,
        weight.XNORScale,
    )
}


def list_binarizers(kind: type[Binarizer] = Binarizer) -> list[str]:
    """Return the names of the binarizers of a kind (`InputBinarizer`, `WeightBinarizer` or all), sorted.

    Example:
        >>> from bnn_lightning.binarizers import WeightBinarizer
        >>> list_binarizers(WeightBinarizer)[-3:]
        ['TernaryWeights', 'WeightSign', 'XNORScale']
    """
    return sorted(name for name, cls in _BINARIZERS.items() if issubclass(cls, kind))


def binarizer_signature(name: str) -> inspect.Signature:
    """Return the signature of a binarizer: the options that `binarizer_factory(name, ...)` takes.

    Raises:
        ValueError: Unknown name.

    Example:
        >>> list(binarizer_signature("SignSTE").parameters)
        ['clip']
    """
    if name not in _BINARIZERS:
        hint = did_you_mean(name, _BINARIZERS)
        raise ValueError(f"Unknown binarizer `{name}`.{hint} Known: {', '.join(list_binarizers())}.")
    signature = inspect.signature(_BINARIZERS[name])
    return signature.replace(parameters=[p for p in signature.parameters.values() if p.name != "num_channels"])


def check_factory(argument: str, factory: object) -> None:
    """Refuse values that are no factory of binarizers: a name, a binarizer, or a class that takes other arguments.

    Args:
        argument: Name of the argument, for the message.
        factory: Called with a number of channels; None is the paper's own.

    Raises:
        TypeError: Another thing. `SignSTE` itself would take the number of channels for its `clip`.

    Example:
        >>> from bnn_lightning.binarizers import SignSTE
        >>> check_factory("input_binarizer", SignSTE)
        Traceback (most recent call last):
        ...
        TypeError: `input_binarizer` must be called with a number of channels, which SignSTE takes for `clip`: ...
    """
    remedy = "give binarizer_factory('SignSTE'), or a function of the number of channels"
    if factory is None:
        return
    if isinstance(factory, nn.Module | str) or not callable(factory):
        what = f"the name {factory!r}" if isinstance(factory, str) else f"an object of {type(factory).__name__}"
        raise TypeError(f"`{argument}` must be a factory that makes a binarizer for each layer, got {what}: {remedy}.")
    made = factory.func if isinstance(factory, partial) else factory
    if inspect.isclass(made):
        first = next(iter(inspect.signature(factory).parameters), None)
        if first != "num_channels":
            raise TypeError(
                f"`{argument}` must be called with a number of channels, which {made.__name__} takes for `{first}`: "
                f"{remedy.replace('SignSTE', made.__name__)}."
            )


def binarizer_factory(name: str, **options: Any) -> BinarizerFactory:
    """Return a callable that makes a new binarizer for a number of channels.

    Args:
        name: Name of the class, one of `list_binarizers()`.
        **options: Its keyword arguments, without `num_channels`: that one the caller of the factory gives.

    Raises:
        ValueError: Unknown name or option, or a value that the class refuses.

    Example:
        >>> binarizer_factory("SignSTE", clip=1.5)(64)
        SignSTE(clip=1.5)
        >>> binarizer_factory("RSign")(64)
        RSign(64, surrogate='approx_sign')
    """
    parameters = binarizer_signature(name).parameters
    cls = _BINARIZERS[name]
    unknown = sorted(set(options) - set(parameters))
    if unknown:
        raise ValueError(f"`{name}` has no option `{unknown[0]}`. It has: {', '.join(parameters) or 'none'}.")

    by_channel = "num_channels" in inspect.signature(cls).parameters

    def make(num_channels: int) -> Binarizer:
        return cls(**options, **({"num_channels": num_channels} if by_channel else {}))

    make(1)  # refuse wrong values now, not when the network is built
    return make
