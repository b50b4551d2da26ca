"""Backbones by name: `@register_backbone` on a builder, `create_backbone(name, ...)` to call it."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from bnn_lightning.models.backbone import Backbone
from bnn_lightning.utils.text import did_you_mean

Builder = TypeVar("Builder", bound=Callable[..., Backbone])

FAMILIES = (
    "binary_alexnet",
    "binary_densenet",
    "birealnet",
    "bnext",
    "bnext18",
    "meliusnet",
    "mlp",
    "quicknet",
    "reactnet",
    "real2binary",
    "resnet",
    "resnet_e",
    "vgg_small",
    "xnornet",
)

_BUILDERS: dict[str, Callable[..., Backbone]] = {}


def register_backbone(builder: Builder) -> Builder:
    """Register a builder under its function name.

    Args:
        builder: A function with keyword-only arguments that returns a `Backbone`.

    Returns:
        The builder itself, so that this is used as a decorator.

    Raises:
        ValueError: The name is taken by another builder, or the builder has positional arguments.
    """
    name = builder.__name__
    positional = [p.name for p in inspect.signature(builder).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    if positional:
        raise ValueError(f"Every argument of backbone `{name}` must be keyword-only, `{positional[0]}` is not.")
    known = _BUILDERS.get(name)
    # A notebook runs its cells again: there the newer definition holds.
    if known is not None and (known.__module__, builder.__module__) != ("__main__", "__main__"):
        raise ValueError(f"Backbone `{name}` is registered already, by `{known.__module__}`: choose another name.")
    _BUILDERS[name] = builder
    return builder


def list_backbones() -> list[str]:
    """Return the registered names, sorted.

    Example:
        >>> [name for name in list_backbones() if name.startswith("resnet")]
        ['resnet18', 'resnet18_adabin', 'resnet18_double_skip', 'resnet20', 'resnet20_adabin']
    """
    return sorted(_builders())


def backbone_signature(name: str) -> inspect.Signature:
    """Return the signature of a builder: the options that `create_backbone(name, ...)` takes.

    Raises:
        ValueError: Unknown name.

    Example:
        >>> list(backbone_signature("mlp").parameters)[:3]
        ['num_classes', 'in_channels', 'image_size']
    """
    builders = _builders()
    if name not in builders:
        raise ValueError(
            f"Unknown backbone `{name}`.{did_you_mean(name, builders)} Known: {', '.join(sorted(builders))}."
        )
    return inspect.signature(builders[name])


def create_backbone(name: str, **options: Any) -> Backbone:
    """Build a backbone by its registered name.

    Args:
        name: One of `list_backbones()`.
        **options: Keyword arguments of the builder; `num_classes` and `image_size` have no default.

    Raises:
        ValueError: Unknown name or option, a missing option, or a value that the builder refuses.

    Example:
        >>> network = create_backbone("resnet20", num_classes=10, image_size=32)
        >>> sum(p.numel() for p in network.parameters())
        269850
    """
    parameters = backbone_signature(name).parameters
    takes = f"It takes: {', '.join(parameters)}."
    for option in options:
        if option not in parameters:
            raise ValueError(f"Backbone `{name}` has no option `{option}`.{did_you_mean(option, parameters)} {takes}")
    missing = [p.name for p in parameters.values() if p.default is p.empty and p.name not in options]
    if missing:
        raise ValueError(f"Backbone `{name}` needs a value for {', '.join(f'`{m}`' for m in missing)}. {takes}")
    return _builders()[name](**options)


def _builders() -> dict[str, Callable[..., Backbone]]:
    # Imported late: the families import this file for the decorator.
    for family in FAMILIES:
        importlib.import_module(f"bnn_lightning.models.{family}")
    return _BUILDERS
