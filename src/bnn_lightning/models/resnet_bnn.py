"""The frame that XNOR-Net, Bi-Real Net, ReActNet and Real-to-Binary share on a ResNet: no batch norm in the head."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, get_args

from torch import Tensor, nn

from bnn_lightning.binarizers.base import BinarizerFactory
from bnn_lightning.functional.elementwise import spatial_mean
from bnn_lightning.models.backbone import Backbone, check_size
from bnn_lightning.models.blocks import Binary, layer_factory
from bnn_lightning.models.conv_blocks import Unit
from bnn_lightning.models.registry import register_backbone
from bnn_lightning.models.resnet import BlockMaker
from bnn_lightning.utils.image_size import ImageSize

Stem = Literal["imagenet", "cifar"]


def check_stem(stem: Stem) -> Stem:
    """Return `stem` if it is one.

    Raises:
        ValueError: It is not.
    """
    if stem not in get_args(Stem):
        raise ValueError(f"`stem` must be one of {list(get_args(Stem))}, got {stem!r}.")
    return stem


class UnitResNet(Backbone):
    """A binary ResNet: stem, four stages of units or blocks of units, global average, linear classifier.

    Stem and classifier are real. The stem is a 7x7 convolution with stride 2, batch norm and 3x3 max-pooling with
    stride 2 ("imagenet"), or a 3x3 convolution and batch norm ("cifar").

    Args:
        name: Of the network, for messages.
        num_classes: Width of the logits.
        in_channels: Channels of the images.
        image_size: Height and width of the images.
        mean: Normalization of the images; None leaves them in [0, 1].
        std: See `mean`.
        stem: "imagenet" or "cifar".
        stem_act: Follows the stem's batch norm.
        width: Channels of the first stage; the others have 2, 4 and 8 times as many, and halve the resolution.
        depths: Blocks of each stage.
        block: Makes a block from input channels, output channels and stride.

    Raises:
        ValueError: A value out of range; images that a stage would have to halve at a single pixel.
    """

    def __init__(
        self,
        name: str,
        *,
        num_classes: int,
        in_channels: int,
        image_size: ImageSize,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        stem: Stem,
        stem_act: nn.Module | None = None,
        width: int,
        depths: Sequence[int],
        block: BlockMaker,
    ) -> None:
        large = check_stem(stem) == "imagenet"
        check_size("image_size", image_size, 17 if large else 5, of=name)
        check_size("width", width, of=name)
        super().__init__(
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
            num_features=8 * width,
            mean=mean,
            std=std,
        )
        kernel_size, stride = (7, 2) if large else (3, 1)
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size, stride, kernel_size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act = nn.Identity() if stem_act is None else stem_act
        self.pool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        channels = width
        for index, depth in enumerate(depths):
            blocks = [block(channels, width << index, 1 if index == 0 else 2)]
            channels = width << index
            blocks += [block(channels, channels, 1) for _ in range(depth - 1)]
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
        self.stage_names = [f"layer{index + 1}" for index in range(len(depths))]
        self.linear = nn.Linear(channels, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map (N, num_features, H', W') from images (N, C, H, W)."""
        x = self.pool(self.act(self.bn1(self.conv1(self.normalize(x)))))
        for name in self.stage_names:
            x = getattr(self, name)(x)
        return x

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Compute logits, or with `pre_logits` its average (N, num_features), from the last feature map."""
        x = spatial_mean(x).flatten(1)
        return x if pre_logits else self.linear(x)

    def feature_taps(self) -> list[str]:
        """Return the names of the units: each ends with what follows its binary convolution."""
        return unit_names(self)


def unit_names(network: nn.Module) -> list[str]:
    """Return the names of a network's units, in module order."""
    return [name for name, module in network.named_modules() if isinstance(module, Unit)]


def kaiming_fan_out_init(network: nn.Module) -> None:
    """Initialize every convolution in place as He et al. begin a ResNet: fan out, gain sqrt(2)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")


_DOC = """{title}

{counts}

Args:
    num_classes: Width of the logits.
    in_channels: Channels of the images.
    image_size: Height and width of the images, at least 17, or 5 with the stem for CIFAR.
    mean: Normalization of the images; None leaves them in [0, 1].
    std: See `mean`.
    binary: False builds the float twin: the same network with torch's convolutions; "activations" keeps the weights
        real, the first of two training steps.
    input_binarizer: None takes {binarizers[0]}.
    weight_binarizer: None takes {binarizers[1]}.
    pad_value: Padding of the binary convolutions: 0 (published), -1 or +1.
    width: Channels of the first stage; the others have 2, 4 and 8 times as many.
    stem: "imagenet" (7x7, stride 2, max-pooling) or "cifar" (3x3).

Raises:
    ValueError: A value out of range.

References:
    {papers}
"""


def register_unit_resnet(
    name: str,
    *,
    title: str,
    counts: str,
    papers: str,
    binarizers: tuple[str, str],
    unit: type[Unit],
    depths: Sequence[int],
    init: Callable[[nn.Module], object],
    block: Callable[..., nn.Module] | None = None,
    stem_act: Callable[[], nn.Module] | None = None,
) -> None:
    """Register the builder of a network of units.

    Args:
        name: The registered name.
        title: Summary line of the builder's docstring.
        counts: Parameters and multiply-accumulates, a paragraph of the docstring.
        papers: References of the docstring.
        binarizers: Names of the paper's own, of inputs and of weights, for the docstring.
        unit: Class of the units; it has the paper's own binarizers.
        depths: Blocks of each stage.
        init: Initializes the network in place.
        block: Makes a block of units; None makes a unit.
        stem_act: Makes what follows the stem's batch norm.
    """

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
        pad_value: float = 0.0,
        width: int = 64,
        stem: Stem = "imagenet",
    ) -> UnitResNet:
        defaults = unit.default_binarizers
        layers = layer_factory(binary, input_binarizer, weight_binarizer, defaults=defaults, pad_value=pad_value)
        network = UnitResNet(
            name,
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
            mean=mean,
            std=std,
            stem=stem,
            stem_act=None if stem_act is None else stem_act(),
            width=width,
            depths=depths,
            block=partial(unit if block is None else block, layers=layers),
        )
        init(network)
        return network

    build.__name__ = build.__qualname__ = name
    build.__doc__ = _DOC.format(title=title, counts=counts, papers=papers, binarizers=binarizers)
    register_backbone(build)
