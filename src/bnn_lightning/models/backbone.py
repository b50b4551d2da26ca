"""Base class of backbones, and the normalization that is its first module."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Integral
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from bnn_lightning.functional.elementwise import spatial_mean
from bnn_lightning.utils.checks import check_choice
from bnn_lightning.utils.image_size import ImageSize, plain_size, sides

Stem = Literal["imagenet", "cifar"]
# Images up to this size keep their resolution in the first layer, where `stem` may be left open.
CIFAR_SIZE = 64


class Normalize(nn.Module):
    """Take images in [0, 1] to `(x - mean) / std`, channel by channel; without `mean` and `std`, to themselves.

    The constants are buffers in the state dict: a checkpoint alone says what the network computes. (Published files
    have no such tensors; `load_published` keeps the constants that the network was built with.)

    Args:
        mean: One value a channel, or None.
        std: One value a channel, or None.
        num_channels: Channels of the images.

    Raises:
        ValueError: Only one of the two is given, a wrong number of values, or a `std` that is not positive.

    Example:
        >>> Normalize([0.5], [0.25], num_channels=1)(torch.tensor([[[[0.0, 1.0]]]]))
        tensor([[[[-2.,  2.]]]])
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, mean: Sequence[float] | None, std: Sequence[float] | None, num_channels: int) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise ValueError(f"`mean` and `std` must be given together, got {mean} and {std}.")
        self.num_channels = num_channels
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != num_channels:
                raise ValueError(
                    f"`{name}` must have one value for each of {num_channels} channels, got {list(values)}."
                )
            if values is not None and name == "std" and min(values) <= 0:
                raise ValueError(f"`std` must be positive, got {list(values)}.")
            constant = None if values is None else torch.tensor([float(v) for v in values]).view(-1, 1, 1)
            self.register_buffer(name, constant)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize images.

        Args:
            x: Shape (N, C, H, W), floating, in [0, 1].

        Raises:
            ValueError: Another number of channels (one channel would broadcast to all of them without a word).
            TypeError: Integer images.
        """
        if x.dim() != 4 or x.shape[1] != self.num_channels:
            raise ValueError(f"Images must have the shape (N, {self.num_channels}, H, W), got {tuple(x.shape)}.")
        if not x.is_floating_point():
            raise TypeError(f"Images must be floating-point numbers in [0, 1], got {x.dtype}: divide by 255 first.")
        return x if self.mean is None or self.std is None else (x - self.mean) / self.std

    def extra_repr(self) -> str:
        def show(values: Tensor | None) -> list[float] | None:
            return None if values is None or values.is_meta else [round(v, 4) for v in values.flatten().tolist()]

        return f"mean={show(self.mean)}, std={show(self.std)}"


class Backbone(nn.Module, ABC):
    """A network from images in [0, 1] to logits.

    `forward` is one pass of `forward_features` and `forward_head`, without side effects. The submodules named by
    `feature_taps` are where distillation listens, and the input of the one named by `classifier_name` is the
    penultimate feature. Both are modules of their own, called once in a forward.

    Args:
        num_classes: Width of the logits.
        in_channels: Channels of the images.
        image_size: Height and width of the images that the network was built for.
        num_features: Width of the penultimate feature.
        mean: Normalization of the images, one value a channel; None leaves them in [0, 1].
        std: See `mean`.

    Raises:
        ValueError: A size below 1, or constants that do not fit `in_channels`.
    """

    classifier_name: str = "linear"

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        image_size: ImageSize,
        num_features: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        sizes = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
        for name, value in sizes.items():
            check_size(name, value)
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, plain_size(image_size)
        self.num_features = num_features
        self.normalize = Normalize(mean, std, in_channels)

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the features before the head from images of shape (N, C, H, W)."""

    @abstractmethod
    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Compute logits, or with `pre_logits` the penultimate features (N, num_features), from the features."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, num_classes) from images (N, C, H, W) in [0, 1]."""
        return self.forward_head(self.forward_features(x))

    @abstractmethod
    def feature_taps(self) -> list[str]:
        """Return the names of the submodules whose outputs follow the binary layers, one for each, in order."""


class PooledBackbone(Backbone):
    """A network of units, whose head is a global average and the linear classifier `linear`.

    Attributes:
        unit: Class of the units; each ends with what follows its binary convolution.
    """

    unit: ClassVar[type[nn.Module]]
    linear: nn.Module

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Compute logits, or with `pre_logits` its average (N, num_features), from the last feature map."""
        x = spatial_mean(x).flatten(1)
        return x if pre_logits else self.linear(x)

    def feature_taps(self) -> list[str]:
        """Return the names of the units."""
        return [name for name, module in self.named_modules() if isinstance(module, self.unit)]


def check_stem(stem: Stem) -> Stem:
    """Return `stem` if it is one.

    Raises:
        ValueError: It is not.
    """
    check_choice("stem", stem, Stem)
    return stem


def choose_stem(stem: Stem | None, image_size: ImageSize) -> Stem:
    """Return the stem that is asked for, or the one that fits the image size.

    Raises:
        ValueError: An unknown stem.
    """
    if stem is None:
        return "cifar" if max(sides(image_size)) <= CIFAR_SIZE else "imagenet"
    if stem not in get_args(Stem):
        raise ValueError(f'`stem` must be "imagenet", "cifar" or null (by the image size), got {stem!r}.')
    return stem


def check_image_size(value: ImageSize, stem: Stem, least: tuple[int, int], *, of: str) -> None:
    """Refuse images that are too small for a stem.

    Args:
        value: Height and width of the images.
        stem: Stem of the network.
        least: Smallest height and width with the stem for ImageNet, and with that for CIFAR.
        of: Name of the network, for the message.

    Raises:
        ValueError: An unknown stem, or images that are too small.
    """
    large, small = least
    if check_stem(stem) == "cifar":
        check_size("image_size", value, small, of=of)
    else:
        check_size("image_size", value, large, of=of, hint=f" (`stem=cifar` takes {small} and more)")


def check_size(name: str, value: ImageSize, minimum: int = 1, *, of: str = "", hint: str = "") -> None:
    """Refuse a size that is too small.

    Args:
        name: The option.
        value: Given value; an image size may be a height and a width.
        minimum: The least that is possible.
        of: Name of the object that needs it, for the message.
        hint: End of the message about a size that is too small.

    Raises:
        ValueError: `value` is below `minimum`, or not a whole number.
    """
    what = f" for `{of}`" if of else ""
    if isinstance(value, list | tuple) and len(value) == 2 and name == "image_size":
        for side in value:
            check_size(name, side, minimum, of=of, hint=hint)
        return
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"`{name}` must be a whole number{what}, got {value!r}.")
    if int(value) < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}{what}, got {value}{hint}.")
