"""BNext: units with gated binary convolutions, on the skeleton of ReActNet-A and MobileNet."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from bnn_lightning.binarizers.factory import binarizer_factory
from bnn_lightning.functional.elementwise import concatenate
from bnn_lightning.layers.activation import PReLU
from bnn_lightning.layers.binary import BinaryLayer
from bnn_lightning.models.backbone import Backbone, PooledBackbone, Stem, check_size, choose_stem
from bnn_lightning.models.blocks import LayerFactory, halve
from bnn_lightning.models.bnext_units import BNextUnit, RealLayers, real_layers
from bnn_lightning.models.builder import register_binary
from bnn_lightning.utils.checks import check_positive
from bnn_lightning.utils.image_size import ImageSize

# The paper's own of inputs: RSign with the clipped identity of half width 1.5 as gradient.
CLIPPED_RSIGN = binarizer_factory("RSign", surrogate="sign_ste", clip=1.5)


class BNextBlock(nn.Module):
    """A 3x3 unit, and a 1x1 unit after it; two of these side by side where the channels double.

    Args:
        in_channels: Channels of the input.
        out_channels: As many, or twice as many.
        stride: Stride of the 3x3 unit, 1 or 2.
        multiply: Whether the 3x3 unit is ELM-Attention.
        **options: As `BNextUnit` takes them.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, multiply: bool, **options: Any) -> None:
        super().__init__()
        unit: Callable[..., nn.Module] = partial(BNextUnit, in_channels, in_channels, **options)
        self.spatial = unit(3, stride, shortcut=halve(stride), multiply=multiply)
        self.pointwise = nn.ModuleList(
            unit(1, shortcut=nn.Identity(), multiply=False) for _ in range(out_channels // in_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        y = self.spatial(x)
        halves = [unit(y) for unit in self.pointwise]
        return halves[0] if len(halves) == 1 else concatenate(halves)


class BNextFrame(PooledBackbone):
    """The forward pass of BNext networks: a real stem, blocks, PReLU, global average, linear classifier."""

    unit = BNextUnit
    conv1: nn.Module
    bn1: nn.Module
    pool: nn.Module
    blocks: nn.Module
    act: nn.Module

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map (N, num_features, H', W') from images (N, C, H, W)."""
        y: Tensor = self.blocks(self.pool(self.bn1(self.conv1(self.normalize(x)))))
        return y

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Compute logits, or with `pre_logits` the average over the map (N, num_features), from the last one."""
        return super().forward_head(self.act(x), pre_logits=pre_logits)


class BNext(BNextFrame):
    """BNext-Tiny, -Small, -Middle and -Large: a real stem, blocks, PReLU, global average, linear classifier.

    Args:
        widths: Channels after the stem and after each block; a block with twice as many as the one before it (the first
            one apart) halves the resolution.
        stem: "imagenet" halves the resolution, "cifar" keeps it.
        elm: Make the 3x3 unit of every second block ELM-Attention.
        layers: Makes the binary convolutions.
        real: Makes the others.
        recoupling: See `BNextConv`.
        latent_std: Standard deviation of the initial latent weights.
        **frame: As `Backbone` takes it.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        stem: Stem,
        elm: bool,
        layers: LayerFactory,
        real: RealLayers,
        recoupling: bool,
        latent_std: float,
        **frame: Any,
    ) -> None:
        super().__init__(num_features=widths[-1], **frame)
        self.conv1 = real.stem(self.in_channels, widths[0], 3, 2 if stem == "imagenet" else 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.pool = nn.Identity()
        self.blocks = nn.Sequential()
        for number, (before, after) in enumerate(pairwise(widths), start=1):
            stride = 2 if after != before and number > 1 else 1
            multiply = elm and number % 2 == 0
            block = BNextBlock(
                before, after, stride, multiply=multiply, layers=layers, real=real, recoupling=recoupling
            )
            self.blocks.append(block)
        self.act = PReLU(widths[-1])
        self.linear = real.linear(widths[-1], self.num_classes)
        init_latent_(self, latent_std)


def init_latent_(network: nn.Module, std: float) -> None:
    """Draw the weights of the binary convolutions, and of those of a float twin, from a normal distribution."""
    check_positive("latent_std", std)
    for module in network.modules():
        if isinstance(module, BinaryLayer):
            nn.init.normal_(module.weight, std=std)


def block_widths(width: int, depths: Sequence[int]) -> list[int]:
    """Return the channels after the stem and each block: two of the first, then stages of doubled width.

    Args:
        width: Width of the stem.
        depths: Blocks of each stage after the first block.

    Example:
        >>> block_widths(32, (2, 2, 6, 2))
        [32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
    """
    return [width, 2 * width] + [2 ** (stage + 2) * width for stage, depth in enumerate(depths) for _ in range(depth)]


_DOC = """Build {title}, of {blocks} blocks.

With 1000 classes, 3x224x224 images and the ImageNet stem: {counts}
multiply-accumulates. Published counts have some more parameters, which never receive a gradient: PReLUs that are made
and not used.

Args:
    image_size: Height and width of the images: at least 17 with the ImageNet stem and 9 with the other.
    input_binarizer: None takes RSign with the clipped identity of half width 1.5 as gradient.
    weight_binarizer: None takes TemperatureSign: weights that become binary at progress 0.3.
    width: Channels of the stem.
    depths: Blocks of each stage after the first block; every stage doubles the channels and halves the resolution.
    stem: "imagenet" halves the resolution, "cifar" keeps it; None takes "cifar" for images of up to 64 pixels.
    elm: Multiply with the shortcut in every second block (element-wise attention).
    recoupling: Gate each binary convolution by a blend of its input and output; without, the units have no gate.
    latent_std: Standard deviation of the initial latent weights.
    quant: Train with the rounding of 8-bit stem and classifier and of `se_bits`-bit gates.
    se_bits: Bits of the weights and inputs of the gates, where `quant`.

Raises:
    ValueError: A value out of range.

References:
    Guo et al., Join the High Accuracy Club on ImageNet with A Binary Neural Network Ticket, 2022.
"""


def _size(name: str, title: str, width: int, depths: Sequence[int], counts: str) -> Callable[..., Backbone]:
    """Register the builder of one size; `counts` are those of its docstring."""
    doc = _DOC.format(title=title, blocks=1 + sum(depths), counts=counts)

    @register_binary(CLIPPED_RSIGN, "TemperatureSign", name=name, doc=doc)
    def build(
        layers: LayerFactory,
        *,
        width: int = width,
        depths: Sequence[int] = depths,
        stem: Stem | None = None,
        elm: bool = True,
        recoupling: bool = True,
        latent_std: float = 1e-3,
        quant: bool = False,
        se_bits: int = 8,
        **frame: Any,
    ) -> BNext:
        return BNext(
            widths=block_widths(width, depths),
            stem=_checked_stem(name, stem, frame["image_size"], width, depths),
            elm=elm,
            layers=layers,
            real=real_layers(quant, se_bits, se_bits),
            recoupling=recoupling,
            latent_std=latent_std,
            **frame,
        )

    return build


def _checked_stem(name: str, stem: Stem | None, image_size: ImageSize, width: int, depths: Sequence[int]) -> Stem:
    """Return the stem, once the sizes are known to be possible with it."""
    check_size("image_size", image_size)
    stem = choose_stem(stem, image_size)
    check_size("width", width, of=name)
    if not depths:
        raise ValueError(f"`depths` must have a number of blocks for each stage of `{name}`, got none.")
    for depth in depths:
        check_size("depths", depth, of=name)
    halvings = len(depths) + (stem == "imagenet")  # of more than one pixel each
    check_size("image_size", image_size, 2 ** (halvings - 1) + 1, of=name)
    return stem


bnext_tiny = _size(
    "bnext_tiny",
    "BNext-Tiny",
    width=32,
    depths=(2, 2, 6, 2),
    counts="30,853,276 parameters, 28,253,184 of them binary; 4,816,896,000 binary and 13,344,512 real",
)
bnext_small = _size(
    "bnext_small",
    "BNext-Small",
    width=48,
    depths=(2, 2, 6, 2),
    counts="68,581,174 parameters, 63,569,664 of them binary; 10,838,016,000 binary and 21,128,640 real",
)
bnext_middle = _size(
    "bnext_middle",
    "BNext-Middle",
    width=48,
    depths=(4, 4, 8, 4),
    counts="134,479,894 parameters, 126,238,464 of them binary; 20,086,456,320 binary and 24,262,080 real",
)
bnext_large = _size(
    "bnext_large",
    "BNext-Large",
    width=64,
    depths=(4, 4, 16, 4),
    counts="326,504,912 parameters, 308,310,016 of them binary; 52,150,927,360 binary and 39,418,880 real",
)
