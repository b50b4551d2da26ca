"""BinaryAlexNet: AlexNet with every layer binary, the image alone is real."""

from typing import Any

from torch import Tensor, nn

from bnn_lightning.layers.activation import LearnableBias
from bnn_lightning.layers.conv import BinaryConv2d
from bnn_lightning.models.backbone import Backbone, Stem, check_image_size, check_size
from bnn_lightning.models.blocks import LayerFactory
from bnn_lightning.models.builder import register_binary
from bnn_lightning.models.family import Size, halved, keras_init, same_padding, sign_binarizers
from bnn_lightning.utils.image_size import sides

# Channels of the convolutions, in multiples of the first one's; kernel sizes behind it; which ones maxima follow.
_MULTIPLES, _KERNELS, _POOLED = (1, 3, 6, 6, 4), (5, 3, 3, 3), (1, 2, 5)


def _norm(kind: type[nn.BatchNorm1d] | type[nn.BatchNorm2d], channels: int) -> nn.Module:
    """Make a batch norm with a learnable offset and no scale: what scales a sum changes no sign."""
    return nn.Sequential(kind(channels, eps=1e-3, affine=False), LearnableBias(channels))


def _pooled(side: int) -> int:
    return (side - 3) // 2 + 1


class BinaryAlexNet(Backbone):
    """Five convolutions, three of them before maxima of 3x3 with stride 2, and three linear layers, all binary.

    Batch norm, with an offset and no scale, follows each layer and its maxima; behind the last one it gives the logits.

    Args:
        width: Channels of the first convolution; hidden linear layers have 64 times as many.
        stem: The first convolution is 11x11 with stride 4 ("imagenet") or 3x3 ("cifar").
        layers: Makes the layers.
        **frame: As `Backbone` takes it.
    """

    classifier_name = "fc3"

    def __init__(self, *, width: int, stem: Stem, layers: LayerFactory, **frame: Any) -> None:
        super().__init__(num_features=64 * width, **frame)
        size: Size = frame["image_size"]
        kernel_size, stride = (11, 4) if stem == "imagenet" else (3, 1)
        self.pool = nn.MaxPool2d(3, 2)
        top, bottom, left, right = same_padding(size, kernel_size, stride)
        self.pad = nn.ZeroPad2d((left, right, top, bottom))
        self.conv1 = BinaryConv2d(
            self.in_channels, width, kernel_size, stride, bias=False, weight_binarizer=layers.weight(width)
        )
        self.norm1 = _norm(nn.BatchNorm2d, width)
        channels = width
        for index, (multiple, kernel) in enumerate(zip(_MULTIPLES[1:], _KERNELS, strict=True), start=2):
            self.add_module(f"conv{index}", layers.conv(channels, width * multiple, kernel))
            self.add_module(f"norm{index}", _norm(nn.BatchNorm2d, width * multiple))
            channels = width * multiple
        height, columns = halved(size, stride)
        for _ in _POOLED:
            height, columns = _pooled(height), _pooled(columns)
        self.last_map = (channels, height, columns)
        self.fc1 = layers.linear(channels * height * columns, self.num_features, bias=False)
        self.norm6 = _norm(nn.BatchNorm1d, self.num_features)
        self.fc2 = layers.linear(self.num_features, self.num_features, bias=False)
        self.norm7 = _norm(nn.BatchNorm1d, self.num_features)
        self.fc3 = layers.linear(self.num_features, self.num_classes, bias=False)
        self.norm8 = _norm(nn.BatchNorm1d, self.num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last hidden layer (N, num_features) from images (N, C, H, W)."""
        x = self.pad(self.normalize(x))
        for index in range(1, 6):
            x = getattr(self, f"conv{index}")(x)
            x = getattr(self, f"norm{index}")(self.pool(x) if index in _POOLED else x)
        x = self.norm6(self.fc1(x.flatten(1)))
        y: Tensor = self.norm7(self.fc2(x))
        return y

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Compute logits, or with `pre_logits` the last hidden layer itself, from the last hidden layer."""
        return x if pre_logits else self.norm8(self.fc3(x))

    def feature_taps(self) -> list[str]:
        """Return the names of the batch norms: each follows a binary layer."""
        return [f"norm{index}" for index in range(1, 9)]


@register_binary(*sign_binarizers(1.0))
def binary_alexnet(
    layers: LayerFactory, *, width: int | None = None, stem: Stem = "imagenet", **frame: Any
) -> BinaryAlexNet:
    """Build BinaryAlexNet, which fits one `image_size` only.

    With 1000 classes and 3x224x224 images: 61,838,248 parameters, 61,827,776 of them binary; 768,512,000 binary
    multiply-accumulates, and 72,855,552 with the real image.

    Args:
        layers: Makes the binary layers.
        image_size: Height and width of the images, at least 57, or 15 with the stem for CIFAR. Padding is TensorFlow's
            "same" for this size.
        input_binarizer: None takes SignSTE.
        weight_binarizer: None takes WeightSign with clip 1.
        width: Channels of the first convolution; None is 64.
        stem: "imagenet" (11x11, stride 4) or "cifar" (3x3).
        **frame: As `Backbone` takes it.

    Raises:
        ValueError: A value out of range.

    References:
        Hubara et al., Binarized Neural Networks, NIPS 2016.
        larq-zoo 2.4, whose network this is, layer by layer.
    """
    width = 64 if width is None else width
    check_image_size(frame["image_size"], stem, (57, 15), of="binary_alexnet")
    check_size("width", width, of="binary_alexnet")
    frame["image_size"] = sides(frame["image_size"])
    network = BinaryAlexNet(width=width, stem=stem, layers=layers, **frame)
    keras_init(network, real=nn.init.xavier_uniform_, binary=nn.init.xavier_uniform_)
    return network
