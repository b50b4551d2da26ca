"""Statistics of signs, layer by layer: of weights, and of activations over images."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bnn_lightning.functional.stats import sign_entropy
from bnn_lightning.layers.binary import BinaryLayer
from bnn_lightning.layers.module_utils import binary_layers, evaluation

# Range of latent weights, in standard deviations of their layer.
HISTOGRAM_LIMIT, HISTOGRAM_BINS = 4.0, 81


@dataclass(frozen=True)
class LayerSigns:
    """Signs of a binary layer.

    Attributes:
        layer: Its name.
        weights: Number of weights.
        weight_share: Share of them that are +1.
        weight_entropy: Entropy of their signs, in bits.
        near_zero: Share of latent weights within a tenth of their standard deviation of 0, where a sign flips easily.
        input_share: Share of its binary inputs that are +1, over all images; None where its inputs are real.
        input_entropy: Entropy of their signs, in bits.
        dead_inputs: Share of input channels that have one and the same sign in all places of all images.
        histogram: Histogram of latent weights, (HISTOGRAM_BINS,): shares, over standard deviations; its ends take what
            is beyond.
    """

    layer: str
    weights: int
    weight_share: float
    weight_entropy: float
    near_zero: float
    input_share: float | None
    input_entropy: float | None
    dead_inputs: float | None
    histogram: Tensor


@torch.no_grad()
def sign_statistics(network: nn.Module, batches: Iterable[Tensor]) -> list[LayerSigns]:
    """Count the signs of every binary layer, in evaluation mode.

    Args:
        network: With binary layers; its mode is put back.
        batches: Images, (N, C, H, W) each.

    Returns:
        One entry a layer.

    Raises:
        ValueError: No binary layer, or no images.

    Example:
        >>> from bnn_lightning.models import create_backbone
        >>> network = create_backbone("mlp", num_classes=10, in_channels=1, image_size=8, width=16)
        >>> statistics = sign_statistics(network, [torch.rand(4, 1, 8, 8)])
        >>> [(one.layer, one.input_share is None) for one in statistics]
        [('fc1', True), ('fc2', False), ('fc3', False)]
    """
    layers = binary_layers(network)
    if not layers:
        raise ValueError(f"{type(network).__name__} has no binary layer, and so no signs.")
    seen = 0
    with evaluation(network), _counting(layers) as counts:
        for images in batches:
            network(images)
            seen += len(images)
    if not seen:
        raise ValueError("There are no images to count signs of.")
    return [_of_layer(name, layer, counts.get(name)) for name, layer in layers.items()]


@contextmanager
def _counting(layers: dict[str, BinaryLayer]) -> "Iterator[dict[str, tuple[Tensor, int]]]":
    """Count the positive inputs of each channel, and its inputs, while the context is open."""
    counts: dict[str, tuple[Tensor, int]] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            by_channel = output.transpose(0, 1).flatten(1)
            positive = (by_channel > 0).sum(1)
            before, number = counts.get(name, (torch.zeros_like(positive), 0))
            counts[name] = (before + positive, number + by_channel.shape[1])

        return hook

    handles = [
        layer.input_binarizer.register_forward_hook(note(name))
        for name, layer in layers.items()
        if layer.input_binarizer is not None
    ]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def _of_layer(name: str, layer: BinaryLayer, counted: tuple[Tensor, int] | None) -> LayerSigns:
    latent = layer.latent_weight.detach().float().cpu()
    scaled = latent / latent.std().clamp_min(torch.finfo(torch.float32).tiny)
    clamped = scaled.clamp(-HISTOGRAM_LIMIT, HISTOGRAM_LIMIT)
    histogram = torch.histc(clamped, HISTOGRAM_BINS, -HISTOGRAM_LIMIT, HISTOGRAM_LIMIT) / latent.numel()
    share = entropy = dead = None
    if counted is not None:
        positive, number = counted
        share = float(positive.sum()) / (number * len(positive))
        entropy = entropy_of(share)
        dead = float(((positive == 0) | (positive == number)).float().mean())
    return LayerSigns(
        name,
        latent.numel(),
        float((latent >= 0).float().mean()),
        float(sign_entropy(latent)),
        float((scaled.abs() < 0.1).float().mean()),
        share,
        entropy,
        dead,
        histogram,
    )


def entropy_of(share: float) -> float:
    """Return the entropy of a sign that is +1 with a probability, in bits.

    Example:
        >>> entropy_of(0.5), entropy_of(1.0)
        (1.0, 0.0)
    """
    both = torch.tensor([share, 1.0 - share], dtype=torch.float64)
    return abs(float(-torch.xlogy(both, both).sum() / torch.log(torch.tensor(2.0, dtype=torch.float64))))


def sign_rows(statistics: Sequence[LayerSigns]) -> tuple[list[str], list[list[Any]]]:
    """Return the table of a figure of signs, header and rows, without histograms."""
    header = [name for name in LayerSigns.__dataclass_fields__ if name != "histogram"]
    return header, [[getattr(one, name) for name in header] for one in statistics]
