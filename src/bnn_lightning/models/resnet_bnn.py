"""The frame that XNOR-Net, Bi-Real Net, ReActNet and Real-to-Binary share on a ResNet: no batch norm in the head."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from bnn_lightning.functional.elementwise import spatial_mean
from bnn_lightning.models.backbone import Backbone, check_size
from bnn_lightning.models.blocks import LayerFactory
from bnn_lightning.models.builder import register_binary
from bnn_lightning.models.conv_blocks import Unit
from bnn_lightning.models.resnet import BlockMaker
from bnn_lightning.utils.checks import check_choice

Stem = Literal["imagenet", "cifar"]


def check_stem(stem: Stem) -> Stem:
    """Return `stem` if it is one.

    Raises:
        ValueError: It is not.
    """
    check_choice("stem", stem, Stem)
    return stem


class UnitResNet(Backbone):
    """A binary ResNet: stem, four stages of units or blocks of units, global average, linear classifier.

    Stem and classifier are real. The stem is a 7x7 convolution with stride 2, batch norm and 3x3 max-pooling with
    stride 2 ("imagenet"), or a 3x3 convolution and batch norm ("cifar").

    Args:
        name: Name of the network, for messages.
        stem: "imagenet" or "cifar".
        stem_act: Follows the stem's batch norm.
        width: Channels of the first stage; the others have 2, 4 and 8 times as many, and halve the resolution.
        depths: Blocks of each stage.
        block: Makes a block from input channels, output channels and stride.
        **frame: As `Backbone` takes it.

    Raises:
        ValueError: A value out of range; images that a stage would have to halve at a single pixel.
    """

    def __init__(
        self,
        name: str,
        *,
        stem: Stem,
        stem_act: nn.Module | None = None,
        width: int,
        depths: Sequence[int],
        block: BlockMaker,
        **frame: Any,
    ) -> None:
        large = check_stem(stem) == "imagenet"
        check_size("image_size", frame["image_size"], 17 if large else 5, of=name)
        check_size("width", width, of=name)
        super().__init__(num_features=8 * width, **frame)
        kernel_size, stride = (7, 2) if large else (3, 1)
        self.conv1 = nn.Conv2d(self.in_channels, width, kernel_size, stride, kernel_size // 2, bias=False)
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
        self.linear = nn.Linear(channels, self.num_classes)

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
    image_size: Height and width of the images, at least 17, or 5 with the stem for CIFAR.
    input_binarizer: None takes {binarizers[0]}.
    weight_binarizer: None takes {binarizers[1]}.
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
    doc = _DOC.format(title=title, counts=counts, papers=papers, binarizers=binarizers)

    @register_binary(*unit.default_binarizers, name=name, doc=doc)
    def build(layers: LayerFactory, *, width: int = 64, stem: Stem = "imagenet", **frame: Any) -> UnitResNet:
        network = UnitResNet(
            name,
            stem=stem,
            stem_act=None if stem_act is None else stem_act(),
            width=width,
            depths=depths,
            block=partial(unit if block is None else block, layers=layers),
            **frame,
        )
        init(network)
        return network
