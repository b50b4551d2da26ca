"""Comparison of a packed network with the network that it was made from: layer by layer, and at the end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bnn_lightning.deploy.frontend.conv_transpose import PackedConvTranspose2d, why_no_convolution
from bnn_lightning.deploy.frontend.layers import (
    PackedConv1d,
    PackedConv2d,
    PackedLinear,
    input_threshold,
    kernels_of,
    signs_of,
)
from bnn_lightning.layers.binary import BinaryLayer, input_of
from bnn_lightning.layers.conv import BinaryConv1d, BinaryConv2d
from bnn_lightning.layers.conv_transpose import BinaryConvTranspose2d
from bnn_lightning.layers.linear import BinaryLinear
from bnn_lightning.layers.module_utils import binary_layers, copy_network
from bnn_lightning.utils.text import number_of

_FAR = 1e-4  # of two logits


@dataclass(frozen=True)
class OtherClass:
    """An image that the two networks put into different classes.

    Attributes:
        index: Index of the image, in the order in which they came.
        simulated: Class by the network that was trained.
        packed: Class by the packed one.
        margin: The trained network's largest logit minus its second largest.
    """

    index: int
    simulated: int
    packed: int
    margin: float


@dataclass
class Parity:
    """Result of a comparison.

    Attributes:
        margin: Largest margin at which another class is put down to rounding.
        max_drop: Percentage points of accuracy that a packed network with rounded weights may lose; other classes are
            expected then. None demands equal classes.
        images: Number of images that were compared.
        largest_difference: Largest difference of two logits.
        layers: Number of sums that differ, by name of a binary layer; they are whole numbers, so none may.
        others: Images with another class.
        rounded: Images that were compared with what the trained network gives for each alone or in float64.
        far: Images with a logit that differs by more than 1e-4.
        correct: Images that the trained and the packed network classify as their labels say, where these are given.
    """

    margin: float = 1e-3
    max_drop: float | None = None
    images: int = 0
    largest_difference: float = 0.0
    layers: dict[str, int] = field(default_factory=dict)
    others: list[OtherClass] = field(default_factory=list)
    rounded: int = 0
    far: int = 0
    correct: list[int] = field(default_factory=lambda: [0, 0])

    @property
    def drop(self) -> float:
        """Accuracy that the packed network loses, in percentage points."""
        return 100 * (self.correct[0] - self.correct[1]) / self.images if self.images else 0.0

    @property
    def faults(self) -> list[str]:
        """Differences beyond the limits, a sentence each; empty if the networks agree."""
        faults = [f"{count} sums of `{name}` differ." for name, count in self.layers.items() if count]
        faults += [
            f"Image {other.index}: class {other.simulated} simulated, {other.packed} packed, with a margin of "
            f"{other.margin:.3g}."
            for other in self.others
            if self.max_drop is None and not other.margin <= self.margin
        ]
        if self.max_drop is not None and self.drop > self.max_drop:
            faults.append(f"The accuracy falls by {self.drop:.2f} points, more than {self.max_drop:g}.")
        if not self.images:
            faults.append("There was no image to compare.")
        elif not self.largest_difference < float("inf"):
            faults.append("A logit is not a finite number.")
        return faults

    def __str__(self) -> str:
        if self.max_drop is not None:
            accuracies = ", ".join(
                f"{100 * count / max(self.images, 1):.2f} % {name}"
                for count, name in zip(self.correct, ("before rounding", "after"), strict=True)
            )
            return (
                f"rounded: {number_of(self.images, 'image')}, {accuracies}; {len(self.others)} in another class\n"
                f"        {number_of(len(self.layers), 'binary layer')}, sums that differ: {sum(self.layers.values())}"
            )
        ties = [other for other in self.others if other.margin <= self.margin]
        lines = [
            f"parity: {number_of(self.images, 'image')}, largest difference of a logit {self.largest_difference:.2g}, "
            f"{len(self.others)} in another class",
        ]
        if self.rounded:
            lines.append(
                f"        {self.rounded} of them have what the trained network gives for the image alone or in float64"
            )
        if self.far:
            lines.append(f"        {self.far} of them have a logit that differs by more than {_FAR:g}")
        if self.layers:
            lines.append(
                f"        {number_of(len(self.layers), 'binary layer')}, sums that differ: {sum(self.layers.values())}"
            )
        lines += [
            f"        image {tie.index}: {tie.simulated} or {tie.packed}, a tie by {tie.margin:.2g}" for tie in ties
        ]
        return "\n".join(lines)


class Comparison:
    """Compare a trained network with a packed one, batch by batch.

    Args:
        model: In evaluation mode; computes with floats.
        packed: From `pack` or `load`.
        margin: See `Parity`.
        max_drop: See `Parity`.
        layers: Compare the sums of binary layers, too: those of packed layers, whatever `packed` is.
        rounds: `packed` rounds at other places than `model`, as other runtimes do. Where the logits of an image differ,
            compare with what `model` gives for it alone or in float64, if that is nearer: torch itself adds a stem's
            products in another order for one image than for many, and an activation within rounding of a threshold
            turns its sign.

    Example:
        >>> from bnn_lightning.deploy import pack
        >>> from bnn_lightning.models import create_backbone
        >>> model = create_backbone("resnet20", num_classes=10, image_size=32).eval()
        >>> comparison = Comparison(model, pack(model))
        >>> comparison.update(torch.rand(2, 3, 32, 32))
        >>> comparison.parity.faults, len(comparison.parity.layers)
        ([], 18)
    """

    def __init__(
        self,
        model: nn.Module,
        packed: Callable[[Tensor], Tensor],
        *,
        margin: float = 1e-3,
        max_drop: float | None = None,
        layers: bool = True,
        rounds: bool = False,
    ) -> None:
        self.model, self.packed, self.layers, self.rounds = model, packed, layers, rounds
        self._referees: list[nn.Module] = []
        self.parity = Parity(margin=margin, max_drop=max_drop)

    @torch.no_grad()
    def update(self, images: Tensor, labels: Tensor | None = None) -> None:
        """Compare for a batch. The layers are compared for the first one.

        Args:
            images: Shape (N, C, H, W).
            labels: Shape (N,); needed where accuracies are compared.
        """
        if self.parity.images == 0 and self.layers:
            with _compared_layers(self.model, self.parity.layers):
                simulated = self.model(images)
        else:
            simulated = self.model(images)
        packed = self.packed(images)
        if self.rounds:
            self._take_nearest(images, simulated, packed)
        # NaN would get lost in max().
        differences = (simulated - packed).abs().nan_to_num(nan=float("inf")).amax(1)
        self.parity.largest_difference = max(self.parity.largest_difference, differences.max().item())
        self.parity.far += int((differences > _FAR).sum())
        top = simulated.topk(min(2, simulated.shape[1]), dim=1).values
        margins = top[:, 0] - top[:, -1]
        before, after = simulated.argmax(1), packed.argmax(1)
        if labels is not None:
            for place, classes in enumerate((before, after)):
                self.parity.correct[place] += int((classes == labels).sum())
        for place in (before != after).nonzero().flatten().tolist():
            self.parity.others.append(
                OtherClass(self.parity.images + place, int(before[place]), int(after[place]), margins[place].item())
            )
        self.parity.images += len(images)

    def _take_nearest(self, images: Tensor, simulated: Tensor, packed: Tensor) -> None:
        """Put into `simulated` what the model gives for an image alone or in float64, if that is nearer to `packed`."""
        far = (simulated - packed).abs().amax(1)
        for place in (far > _FAR).nonzero().flatten().tolist():
            image, nearest = images[place : place + 1], far[place]
            for logits in self._alone(image.cpu()):
                difference = (logits.to(packed) - packed[place]).abs().max()
                if difference < nearest:
                    simulated[place], nearest = logits, difference
            self.parity.rounded += int(nearest < far[place])

    def _alone(self, image: Tensor) -> list[Tensor]:
        # On the CPU: no GPU of Apple has float64. In channels_last torch adds in the same order as for many images.
        if not self._referees:
            plain = copy_network(self.model).cpu().to(memory_format=torch.contiguous_format)
            self._referees = [plain, copy_network(plain).double()]
        logits = [self._referees[0](image)[0]]
        with suppress(RuntimeError):  # a network that casts to float32 on its way
            logits.append(self._referees[1](image.double())[0])
        return logits


@contextmanager
def _compared_layers(model: nn.Module, counts: dict[str, int]) -> Iterator[None]:
    """Give every binary layer that can be packed its input a second time, packed, and count the sums that differ."""
    handles = []
    try:
        for name, layer in binary_layers(model).items():
            packed = None if layer.input_binarizer is None else _only_sums(layer)
            if packed is not None:
                compare = _comparing(name, packed, counts)
                handles.append(layer.register_forward_pre_hook(compare, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _comparing(name: str, packed: nn.Module, counts: dict[str, int]) -> Callable[..., None]:
    def compare(layer: BinaryLayer, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        x = input_of(args, kwargs)
        assert layer.input_binarizer is not None
        wanted = layer.dot(layer.input_binarizer(x), layer.binary_weight, x_is_binary=True)
        counts[name] = counts.get(name, 0) + int((packed(x) != wanted).sum())

    return compare


def _only_sums(layer: BinaryLayer) -> nn.Module | None:
    """Return a packed layer without scale and bias; None for layers that have no packed form."""
    threshold = input_threshold(layer)
    if isinstance(layer, BinaryLinear):
        return PackedLinear(kernels_of(signs_of(layer)), threshold=threshold)
    if isinstance(layer, BinaryConvTranspose2d):
        return None if why_no_convolution(layer) else PackedConvTranspose2d(layer)
    if not isinstance(layer, BinaryConv1d | BinaryConv2d):
        return None
    kind = PackedConv1d if isinstance(layer, BinaryConv1d) else PackedConv2d
    return kind(kernels_of(signs_of(layer)), threshold=threshold, **kind.geometry_of(layer))
