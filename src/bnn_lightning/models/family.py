"""Frame, padding and builders that the networks of larq-zoo share."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bnn_lightning.binarizers.base import BinarizerFactory
from bnn_lightning.binarizers.factory import binarizer_factory
from bnn_lightning.layers.binary import BinaryLayer
from bnn_lightning.models.backbone import Backbone, PooledBackbone, Stem, check_image_size, check_size
from bnn_lightning.models.blocks import LayerFactory
from bnn_lightning.models.builder import register_binary
from bnn_lightning.models.conv_blocks import Unit
from bnn_lightning.utils.image_size import ImageSize, sides

Size = tuple[int, int]


class ZooBackbone(PooledBackbone):
    """A network of units: `stem`, `blocks` and `last` one after another, global average, linear classifier."""

    unit = Unit
    stem: nn.Module
    blocks: nn.Module
    last: nn.Module

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map (N, num_features, H', W') from images (N, C, H, W)."""
        y: Tensor = self.last(self.blocks(self.stem(self.normalize(x))))
        return y


def same_padding(size: Size, kernel_size: int, stride: int) -> tuple[int, int, int, int]:
    """Return TensorFlow's padding "same" for a map: above, below, on the left and on the right.

    There are ceil(size / stride) windows; the odd pixel lies below and on the right.

    Example:
        >>> same_padding((224, 224), 3, 2), same_padding((55, 55), 3, 2)
        ((0, 1, 0, 1), (1, 1, 1, 1))
    """
    both = [max(0, (-(-side // stride) - 1) * stride + kernel_size - side) for side in size]
    (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in both)
    return top, bottom, left, right


def same_conv(
    size: Size, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, *, groups: int = 1
) -> nn.Module:
    """Make a real convolution without bias, padded as TensorFlow's "same" for a map of this size."""
    top, bottom, left, right = same_padding(size, kernel_size, stride)
    even = (top, left) == (bottom, right)
    conv = nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, (top, left) if even else 0, groups=groups, bias=False
    )
    return conv if even else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), conv)


def same_max_pool(size: Size) -> nn.Module:
    """Make maxima of 3x3 windows with stride 2, padded as TensorFlow's "same" for a map of this size."""
    padding = tuple(side % 2 for side in size)
    return nn.MaxPool2d(3, 2, padding, ceil_mode=True)


def halved(size: Size, stride: int = 2) -> Size:
    """Return the size of a map behind a layer with this stride and padding "same"."""
    return -(-size[0] // stride), -(-size[1] // stride)


def resnet_stem(stem: Stem, in_channels: int, width: int, size: Size) -> list[nn.Module]:
    """Make the stem of BinaryDenseNet and BinaryResNet-E.

    It is a 7x7 convolution with stride 2, batch norm, ReLU and maxima of 3x3 with stride 2 ("imagenet"), or a 3x3
    convolution ("cifar").
    """
    if stem == "cifar":
        return [same_conv(size, in_channels, width, 3)]
    conv = same_conv(size, in_channels, width, 7, 2)
    return [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True), same_max_pool(halved(size))]


def sign_binarizers(clip: float) -> tuple[BinarizerFactory, BinarizerFactory]:
    """Return larq's `SteSign(clip)` for inputs and for weights."""
    return binarizer_factory("SignSTE", clip=clip), binarizer_factory("WeightSign", clip=clip)


def keras_init(network: nn.Module, *, real: Callable[[Tensor], object], binary: Callable[[Tensor], object]) -> None:
    """Initialize convolutions and the classifier in place.

    Args:
        network: Its biases become 0.
        real: Initializes the weights of real layers.
        binary: Initializes those of binary layers, and of layers in their place in a float twin.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            (binary if isinstance(module, BinaryLayer) else real)(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@dataclass(frozen=True)
class Variant:
    """A row of a family's table of networks.

    Attributes:
        name: The registered name.
        counts: Parameters, those of them that are binary, binary and real multiply-accumulates, with 1000 classes and
            3x224x224 images.
        width: Channels that the others are multiples of.
        depths: Blocks of each stage.
        options: Options of this network alone, for its class.
    """

    name: str
    counts: tuple[int, int, int, int]
    width: int
    depths: tuple[int, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Family:
    """Options and limits that the networks of a family share.

    Attributes:
        title: Begin of the summary line of the builders' docstrings.
        papers: References of the docstrings.
        network: Class of the networks, called with `width`, `depths`, `stem`, `layers` and what a `Backbone` takes.
        clip: Limit of `SteSign`'s gradients, as in larq.
        widths: Meaning of `width`, for the docstring.
        multiple: `width` must be a multiple of it.
        least: Smallest height and width of images with the stem for ImageNet, and with that for CIFAR.
        pad_value: Padding of the binary convolutions.
    """

    title: str
    papers: str
    network: Callable[..., Backbone]
    clip: float
    widths: str
    multiple: int
    least: tuple[int, int]
    pad_value: float = 0.0

    def check(self, variant: Variant, size: ImageSize, width: int, depths: Sequence[int], stem: Stem) -> None:
        """Refuse sizes that the networks cannot have.

        Raises:
            ValueError: Names the option, the value and the rule.
        """
        name, stages = variant.name, len(variant.depths)
        check_image_size(size, stem, self.least, of=name)
        check_size("width", width, self.multiple, of=name)
        if width % self.multiple:
            raise ValueError(f"`width` must be a multiple of {self.multiple} for `{name}`, got {width}.")
        if len(depths) != stages or min(depths) < 1:
            raise ValueError(f"`depths` must be {stages} numbers above 0 for `{name}`, got {list(depths)}.")


_DOC = """{title} as `{name}`.

With 1000 classes and 3x224x224 images: {counts[0]:,} parameters, {counts[1]:,} of them binary; {counts[2]:,}
binary and {counts[3]:,} real multiply-accumulates.

Args:
    layers: Makes the binary layers.
    image_size: Height and width of the images, at least {least[0]}, or {least[1]} with the stem for CIFAR. Padding is
        TensorFlow's "same" for this size.
    input_binarizer: None takes SignSTE with clip {clip}.
    weight_binarizer: None takes WeightSign with clip {clip}.
    pad_value: Padding of the binary convolutions: 0, -1 or +1; published is {pad_value:g}.
    width: {widths}; None is {width}.
    depths: Blocks of each stage; None is {depths}.
    stem: "imagenet" (a quarter of the resolution) or "cifar" (all of it).
    **frame: As `Backbone` takes it.

Raises:
    ValueError: A value out of range.

References:
    {papers}
    larq-zoo 2.4, whose networks these are, layer by layer.
"""


def register_family(family: Family, variants: Iterable[Variant]) -> None:
    """Register the builders of a family's networks."""
    for variant in variants:
        _register(family, variant)


def _register(family: Family, variant: Variant) -> None:
    doc = _DOC.format(**{**vars(family), **vars(variant)})

    @register_binary(*sign_binarizers(family.clip), pad_value=family.pad_value, name=variant.name, doc=doc)
    def build(
        layers: LayerFactory,
        *,
        width: int | None = None,
        depths: Sequence[int] | None = None,
        stem: Stem = "imagenet",
        **frame: Any,
    ) -> Backbone:
        width = variant.width if width is None else width
        depths = variant.depths if depths is None else depths
        family.check(variant, frame["image_size"], width, depths, stem)
        frame["image_size"] = sides(frame["image_size"])
        return family.network(width=width, depths=depths, stem=stem, layers=layers, **variant.options, **frame)
