"""VGG-Small for CIFAR: six convolutions, the first one real, and a linear classifier."""

from typing import Any

from torch import Tensor, nn

from bnn_lightning.layers.activation import Maxout
from bnn_lightning.models.backbone import Backbone, check_size
from bnn_lightning.models.blocks import Activation, LayerFactory, hardtanh
from bnn_lightning.models.builder import register_binary
from bnn_lightning.models.resnet import fan_out_init
from bnn_lightning.utils.image_size import sides


class VGGSmall(Backbone):
    """VGG-Small: each layer is convolution, pooling where there is one, batch norm, activation; no skips.

    Args:
        width: Channels of the first layers.
        layers: Makes the five convolutions that are binary.
        activation: Makes the activations.
        **frame: As `Backbone` takes it.
    """

    classifier_name = "fc"

    def __init__(
        self,
        *,
        width: int,
        layers: LayerFactory,
        activation: Activation = hardtanh,
        **frame: Any,
    ) -> None:
        height, width_of_images = sides(frame["image_size"])
        super().__init__(num_features=4 * width * (height // 8) * (width_of_images // 8), **frame)
        self.pool = nn.MaxPool2d(2)
        self.conv0 = nn.Conv2d(self.in_channels, width, 3, padding=1, bias=False)
        self.bn0 = nn.BatchNorm2d(width)
        self.act0 = activation(width)
        channels = width
        for index, out_channels in enumerate((width, 2 * width, 2 * width, 4 * width, 4 * width), start=1):
            self.add_module(f"conv{index}", layers.conv3x3(channels, out_channels))
            self.add_module(f"bn{index}", nn.BatchNorm2d(out_channels))
            self.add_module(f"act{index}", activation(out_channels))
            channels = out_channels
        self.fc = nn.Linear(self.num_features, self.num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map (N, 4 width, H / 8, W / 8) from images (N, C, H, W)."""
        x = self.act0(self.bn0(self.conv0(self.normalize(x))))
        for index in range(1, 6):
            x = getattr(self, f"conv{index}")(x)
            if index % 2:
                x = self.pool(x)
            x = getattr(self, f"act{index}")(getattr(self, f"bn{index}")(x))
        return x

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Compute logits, or with `pre_logits` the flattened map (N, num_features), from the last feature map."""
        x = x.flatten(1)
        return x if pre_logits else self.fc(x)

    def feature_taps(self) -> list[str]:
        """Return the names of the five activations after binary convolutions."""
        return [f"act{index}" for index in range(1, 6)]


def init_vgg(network: VGGSmall) -> VGGSmall:
    """Initialize VGG-Small as SKD-BNN does, in place, and return it."""
    fan_out_init(network)
    nn.init.normal_(network.fc.weight, std=0.01)
    nn.init.zeros_(network.fc.bias)
    return network


_DOC = """{title}

{counts}

The classifier reads the whole last map, so a network fits one `image_size` only.

Args:
    image_size: Height and width of the images, at least 8.
    input_binarizer: None takes {binarizers[0]}.
    weight_binarizer: None takes {binarizers[1]}.
    width: Channels of the first two layers; then come two layers of twice and two of four times as many.

Raises:
    ValueError: A value out of range.

References:
    {papers}
"""


def _register(
    name: str, title: str, counts: str, papers: str, binarizers: tuple[str, str], activation: Activation
) -> None:
    """Register a builder; title, counts and papers are those of its docstring."""
    doc = _DOC.format(title=title, counts=counts, papers=papers, binarizers=binarizers)

    @register_binary(*binarizers, name=name, doc=doc)
    def build(layers: LayerFactory, *, width: int = 128, **frame: Any) -> VGGSmall:
        check_size("image_size", frame["image_size"], 8, of=name)
        check_size("width", width, of=name)
        return init_vgg(VGGSmall(width=width, layers=layers, activation=activation, **frame))


_register(
    "vgg_small",
    "Build VGG-Small.",
    "With 10 classes and 3x32x32 images: 4,660,106 parameters, 4,571,136 of them binary; 603,979,776 binary and\n"
    "3,620,864 real multiply-accumulates.",
    "Qin et al., IR-Net, CVPR 2020; Zeng et al., SKD-BNN, Applied Intelligence 54(6), 2024.",
    ("SignEDE", "Libra"),
    hardtanh,
)
_register(
    "vgg_small_adabin",
    "Build VGG-Small with AdaBin's layers.",
    "`Maxout` stands in the place of Hardtanh. The paper's code has no such network.",
    "Tu et al., AdaBin, ECCV 2022.",
    ("AdaBinInput", "AdaBinWeights"),
    Maxout,
)
