"""ResNets of IR-Net, SKD-BNN and AdaBin: a real stem, stages of blocks, batch norm before the classifier."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from bnn_lightning.functional.elementwise import spatial_mean
from bnn_lightning.layers.activation import Maxout
from bnn_lightning.models.backbone import PooledBackbone, check_size
from bnn_lightning.models.blocks import (
    Activation,
    DoubleSkipBlock,
    LayerFactory,
    Shortcut,
    SingleSkipBlock,
    conv_shortcut,
    hardtanh,
    pad_shortcut,
)
from bnn_lightning.models.builder import register_binary

BlockMaker = Callable[[int, int, int], nn.Module]


class StagedResNet(PooledBackbone):
    """A ResNet but for its classifier: a real stem, and stages of blocks.

    Args:
        stem: First convolution: kernel size and stride; its padding keeps the grid. Max-pooling follows stride 2.
        act: Follows the stem's batch norm.
        widths: Channels of each stage; every stage but the first halves the resolution.
        depths: Blocks of each stage.
        block: Makes a block from input channels, output channels and stride.
        **frame: As `Backbone` takes it.
    """

    def __init__(
        self,
        *,
        stem: tuple[int, int],
        act: nn.Module,
        widths: Sequence[int],
        depths: Sequence[int],
        block: BlockMaker,
        **frame: Any,
    ) -> None:
        super().__init__(num_features=widths[-1], **frame)
        kernel_size, stride = stem
        self.conv1 = nn.Conv2d(self.in_channels, widths[0], kernel_size, stride, kernel_size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.act = act
        self.pool = nn.MaxPool2d(3, 2, 1) if stride == 2 else nn.Identity()
        self.stage_names = [f"layer{index}" for index in range(1, len(widths) + 1)]
        channels = widths[0]
        for index, (name, width, depth) in enumerate(zip(self.stage_names, widths, depths, strict=True)):
            blocks = [block(channels, width, 1 if index == 0 else 2)]
            blocks += [block(width, width, 1) for _ in range(depth - 1)]
            self.add_module(name, nn.Sequential(*blocks))
            channels = width

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map (N, num_features, H', W') from images (N, C, H, W)."""
        x = self.pool(self.act(self.bn1(self.conv1(self.normalize(x)))))
        for name in self.stage_names:
            x = getattr(self, name)(x)
        return x


class ResNet(StagedResNet):
    """A binary ResNet: stem, stages, global average, batch norm, linear classifier; stem and classifier are real.

    Args:
        widths: Channels of each stage.
        activation: Makes the activation of the stem.
        **options: As `StagedResNet` takes them.
    """

    def __init__(self, *, widths: Sequence[int], activation: Activation = hardtanh, **options: Any) -> None:
        super().__init__(act=activation(widths[0]), widths=widths, **options)
        self.bn2 = nn.BatchNorm1d(self.num_features)
        self.linear = nn.Linear(self.num_features, self.num_classes)

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


def kaiming_init(network: nn.Module) -> None:
    """Initialize every convolution and the classifier's weight in place: fan in, gain sqrt(2), as SKD-BNN does."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)


def fan_out_init(network: nn.Module) -> None:
    """Initialize every convolution in place as He et al. begin a ResNet: fan out, gain sqrt(2)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")


@dataclass(frozen=True)
class _Variant:
    """A row of the table of networks.

    Attributes:
        name: The registered name.
        title: Summary line of the builder's docstring.
        counts: Parameters and multiply-accumulates, a paragraph of the docstring.
        papers: References of the docstring.
        width: Default number of channels of the first stage.
        stages: Number of stages, each twice as wide as the one before.
        depth: Blocks of each stage.
        min_size: Smallest height and width of images.
        block: Class of the blocks.
        shortcut: Makes the shortcuts.
        stem: Kernel size and stride of the first convolution.
        binarizers: The paper's own, of inputs and of weights.
        activation: Makes the activations.
        init: Initializes the network in place; None leaves torch's initialization.
    """

    name: str
    title: str
    counts: str
    papers: str
    width: int
    stages: int
    depth: int
    min_size: int
    block: type[DoubleSkipBlock]
    shortcut: Shortcut
    stem: tuple[int, int] = (3, 1)
    binarizers: tuple[str, str] = ("SignEDE", "Libra")
    activation: Activation = hardtanh
    init: Callable[[nn.Module], None] | None = kaiming_init


_ADABIN = ("AdaBinInput", "AdaBinWeights")
_SKD_BNN = "Qin et al., IR-Net, CVPR 2020; Zeng et al., SKD-BNN, Applied Intelligence 54(6), 2024."
_VARIANTS = (
    _Variant(
        "resnet20",
        "Build ResNet-20 for CIFAR: three stages of three double-skip blocks, parameter-free shortcuts.",
        "With 10 classes and 3x32x32 images: 269,850 parameters, 267,264 of them binary; 40,108,032 binary and\n"
        "443,008 real multiply-accumulates. Published names are kept, so SKD-BNN's and IR-Net's files load.",
        _SKD_BNN,
        *(16, 3, 3, 3, DoubleSkipBlock, pad_shortcut),
    ),
    _Variant(
        "resnet18",
        "Build ResNet-18 for CIFAR: four stages of two single-skip blocks, real 1x1 convolutions as shortcuts.",
        "With 10 classes and 3x32x32 images: 11,174,986 parameters, 10,985,472 of them binary; 547,356,672 binary and\n"
        "8,066,048 real multiply-accumulates.",
        _SKD_BNN,
        *(64, 4, 2, 5, SingleSkipBlock, conv_shortcut),
    ),
    _Variant(
        "resnet18_double_skip",
        "Build SKD-BNN's ResNet-18 for ImageNet: four stages of two double-skip blocks, real 1x1 shortcuts.",
        "With 1000 classes and 3x224x224 images: 11,690,536 parameters, 10,985,472 of them binary; 1,676,279,808\n"
        "binary and 137,793,536 real multiply-accumulates.",
        "Zeng et al., SKD-BNN, Applied Intelligence 54(6), 2024; Liu et al., Bi-Real Net, ECCV 2018.",
        *(64, 4, 2, 17, DoubleSkipBlock, conv_shortcut),
        stem=(7, 2),
        init=fan_out_init,
    ),
    _Variant(
        "resnet20_adabin",
        "Build AdaBin's ResNet-20 for CIFAR.",
        "It is `resnet20` with `Maxout` in the place of Hardtanh.",
        "Tu et al., AdaBin, ECCV 2022.",
        *(16, 3, 3, 3, DoubleSkipBlock, pad_shortcut),
        binarizers=_ADABIN,
        activation=Maxout,
    ),
    _Variant(
        "resnet18_adabin",
        "Build AdaBin's ResNet-18 for CIFAR.",
        "It is `resnet18` with double skips, and `Maxout` in the place of Hardtanh.",
        "Tu et al., AdaBin, ECCV 2022.",
        *(64, 4, 2, 5, DoubleSkipBlock, conv_shortcut),
        binarizers=_ADABIN,
        activation=Maxout,
        init=None,
    ),
)
_DOC = """{title}

{counts}

Args:
    image_size: Height and width of the images, at least {min_size}.
    input_binarizer: None takes {binarizers[0]}.
    weight_binarizer: None takes {binarizers[1]}.
    width: Channels of the first stage; every other stage has twice as many as the one before. Shortcuts without
        parameters need an even number.

Raises:
    ValueError: A value out of range.

References:
    {papers}
"""


def _check_width(width: int, variant: _Variant) -> None:
    is_padded = variant.shortcut is pad_shortcut
    check_size("width", width, 2 if is_padded else 1, of=variant.name)
    if is_padded and width % 2:
        raise ValueError(
            f"`width` must be even for `{variant.name}` (its shortcuts pad both sides alike), got {width}."
        )


def _register(variant: _Variant) -> None:
    @register_binary(*variant.binarizers, name=variant.name, doc=_DOC.format(**vars(variant)))
    def build(layers: LayerFactory, *, width: int = variant.width, **frame: Any) -> ResNet:
        check_size("image_size", frame["image_size"], variant.min_size, of=variant.name)
        _check_width(width, variant)
        network = ResNet(
            stem=variant.stem,
            widths=[width << stage for stage in range(variant.stages)],
            depths=[variant.depth] * variant.stages,
            block=partial(variant.block, layers=layers, shortcut=variant.shortcut, activation=variant.activation),
            activation=variant.activation,
            **frame,
        )
        if variant.init is not None:
            variant.init(network)
        return network


for _variant in _VARIANTS:
    _register(_variant)
