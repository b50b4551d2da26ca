"""Builders of binary networks, with the options that all of them take."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from bnn_lightning.binarizers.base import BinarizerFactory
from bnn_lightning.models.backbone import Backbone
from bnn_lightning.models.blocks import Binary, layer_factory
from bnn_lightning.models.registry import register_backbone
from bnn_lightning.utils.image_size import ImageSize

Make = Callable[..., Backbone]
_DOC = {
    "num_classes": "Width of the logits.",
    "in_channels": "Channels of the images.",
    "image_size": "Height and width of the images.",
    "mean": "Normalization of the images; None leaves them in [0, 1].",
    "std": "See `mean`.",
    "binary": 'False builds the float twin: the same network with torch\'s layers; "activations" keeps the weights\n'
    "        real, the first of two training steps.",
    "pad_value": "Padding of the binary convolutions: 0 (published), -1 or +1.",
}


def register_binary(
    input_binarizer: str | BinarizerFactory,
    weight_binarizer: str | BinarizerFactory,
    *,
    pad_value: float | None = 0.0,
    name: str | None = None,
    doc: str | None = None,
) -> Callable[[Make], Make]:
    """Register the builder of a binary network, under the name of the function that is decorated.

    The function is called with the layers that the builder made, its own options, and what `Backbone` takes. The
    builder's signature has the options of all networks before those of the function.

    Args:
        input_binarizer: The paper's own, for inputs: a name, or made.
        weight_binarizer: The paper's own, for weights.
        pad_value: Default padding of the binary convolutions; None where the network has none.
        name: Registered name, where it is not that of the function.
        doc: Docstring, where it is not that of the function. It documents the function's own options, and those of all
            networks are added, in the place of `layers` and `**frame`.

    Example:
        >>> from bnn_lightning.models import create_backbone
        >>> create_backbone("mlp", num_classes=3, image_size=8, width=4).fc4
        Linear(in_features=4, out_features=3, bias=True)
    """
    defaults = (input_binarizer, weight_binarizer)

    def register(make: Make) -> Make:
        def build(
            *,
            num_classes: int,
            in_channels: int = 3,
            image_size: ImageSize,
            mean: Sequence[float] | None = None,
            std: Sequence[float] | None = None,
            binary: Binary = True,
            input_binarizer: BinarizerFactory | None = None,
            weight_binarizer: BinarizerFactory | None = None,
            pad_value: float = 0.0 if pad_value is None else pad_value,
            **own: Any,
        ) -> Backbone:
            layers = layer_factory(binary, input_binarizer, weight_binarizer, defaults=defaults, pad_value=pad_value)
            frame = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
            return make(layers, **own, **frame, mean=mean, std=std)

        common = [p for p in inspect.signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY]
        if pad_value is None:
            common.pop()
        own = [p for p in inspect.signature(make).parameters.values() if p.kind is p.KEYWORD_ONLY]
        signature = inspect.Signature([*common, *own], return_annotation=inspect.signature(make).return_annotation)
        build.__signature__ = signature  # type: ignore[attr-defined]
        build.__name__ = build.__qualname__ = name or make.__name__
        build.__module__ = make.__module__
        build.__doc__ = _complete(inspect.cleandoc(doc or make.__doc__ or ""), [p.name for p in common])
        return register_backbone(build)

    return register


def _complete(doc: str, options: Sequence[str]) -> str:
    """Return a docstring with the options of all networks that it does not document itself."""
    own = [line for line in doc.split("\n") if not line.startswith(("    layers: ", "    **frame: "))]
    common = [f"    {key}: {_DOC[key]}" for key in options if key in _DOC and f"\n    {key}: " not in doc]
    return "\n".join(own).replace("\nArgs:\n", "\n".join(["\nArgs:", *common, ""]), 1)
