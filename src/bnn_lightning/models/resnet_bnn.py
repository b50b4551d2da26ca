"""The frame that XNOR-Net, Bi-Real Net, ReActNet and Real-to-Binary share on a ResNet: no batch norm in the head."""

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor, nn

from bnn_lightning.functional.elementwise import spatial_mean
from bnn_lightning.models.backbone import Backbone, check_size
from bnn_lightning.models.conv_blocks import Unit
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
