"""The frame that the binary ResNets share: a real stem, stages of blocks, batch norm before the classifier."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from bnn_lightning.functional.elementwise import spatial_mean
from bnn_lightning.models.backbone import Backbone
from bnn_lightning.models.blocks import Activation, hardtanh
from bnn_lightning.utils.image_size import ImageSize

BlockMaker = Callable[[int, int, int], nn.Module]


class ResNet(Backbone):
    """A binary ResNet: stem, stages, global average, batch norm, linear classifier; stem and classifier are real.

    Args:
        num_classes: Width of the logits.
        in_channels: Channels of the images.
        image_size: Height and width of the images.
        mean: Normalization of the images; None leaves them in [0, 1].
        std: See `mean`.
        stem: First convolution: kernel size and stride; its padding keeps the grid.
        pool: Pooling after the stem, or None.
        widths: Channels of each stage; every stage but the first halves the resolution.
        depth: Blocks of each stage.
        block: Makes a block from input channels, output channels and stride.
        activation: Makes the activation of the stem.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        image_size: ImageSize,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        stem: tuple[int, int],
        pool: nn.Module | None,
        widths: Sequence[int],
        depth: int,
        block: BlockMaker,
        activation: Activation = hardtanh,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
            num_features=widths[-1],
            mean=mean,
            std=std,
        )
        kernel_size, stride = stem
        self.conv1 = nn.Conv2d(in_channels, widths[0], kernel_size, stride, kernel_size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.act = activation(widths[0])
        self.pool = nn.Identity() if pool is None else pool
        self.stage_names = [f"layer{index}" for index in range(1, len(widths) + 1)]
        channels = widths[0]
        for index, (name, width) in enumerate(zip(self.stage_names, widths, strict=True)):
            blocks = [block(channels, width, 1 if index == 0 else 2)]
            blocks += [block(width, width, 1) for _ in range(depth - 1)]
            self.add_module(name, nn.Sequential(*blocks))
            channels = width
        self.bn2 = nn.BatchNorm1d(channels)
        self.linear = nn.Linear(channels, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map (N, num_features, H', W') from images (N, C, H, W)."""
        x = self.pool(self.act(self.bn1(self.conv1(self.normalize(x)))))
        for name in self.stage_names:
            x = getattr(self, name)(x)
        return x

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Compute logits, or with `pre_logits` the head's batch norm (N, num_features), from the last feature map."""
        x = self.bn2(spatial_mean(x).flatten(1))
        return x if pre_logits else self.linear(x)

    def feature_taps(self) -> list[str]:
        """Return the names of the two activations of every block."""
        return [
            f"{stage}.{index}.act{number}"
            for stage in self.stage_names
            for index in range(len(self.get_submodule(stage)))  # type: ignore[arg-type]
            for number in (1, 2)
        ]
