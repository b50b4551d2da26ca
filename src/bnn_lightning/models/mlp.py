"""The three-layer binary perceptron of BinaryNet and SKD-BNN for MNIST."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from bnn_lightning.binarizers.base import BinarizerFactory
from bnn_lightning.layers.activation import Hardtanh
from bnn_lightning.models.backbone import Backbone, check_size
from bnn_lightning.models.blocks import Binary, LayerFactory, layer_factory
from bnn_lightning.models.registry import register_backbone
from bnn_lightning.utils.image_size import ImageSize, sides


class MLP(Backbone):
    """Three binary linear layers with real biases, batch norm and Hardtanh, and a real classifier.

    The images are flattened and stay real: the first layer has binary weights only. Logits are returned, not their
    log-softmax, which the reference adds (cross-entropy and the soft-label bank are blind to the difference). The
    penultimate feature is the last Hardtanh's output; SKD-BNN's reference takes the logits of this one network as such
    in its cluster loss.

    Args:
        num_classes: Width of the logits.
        in_channels: Channels of the images.
        image_size: Height and width of the images.
        mean: Normalization of the images; None leaves them in [0, 1].
        std: See `mean`.
        width: Units of each hidden layer.
        dropout: Probability to drop an output of the third layer.
        layers: Makes the three layers that are binary.
    """

    classifier_name = "fc4"

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        image_size: ImageSize,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        width: int,
        dropout: float,
        layers: LayerFactory,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            in_channels=in_channels,
            image_size=image_size,
            num_features=width,
            mean=mean,
            std=std,
        )
        self.fc1 = layers.linear(in_channels * math.prod(sides(image_size)), width, real_input=True)
        self.bn1 = nn.BatchNorm1d(width)
        self.act1 = Hardtanh(inplace=True)
        self.fc2 = layers.linear(width, width)
        self.bn2 = nn.BatchNorm1d(width)
        self.act2 = Hardtanh(inplace=True)
        self.fc3 = layers.linear(width, width)
        self.drop = nn.Dropout(dropout)
        self.bn3 = nn.BatchNorm1d(width)
        self.act3 = Hardtanh(inplace=True)
        self.fc4 = nn.Linear(width, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last hidden layer (N, width) from images (N, C, H, W)."""
        x = self.normalize(x).flatten(1)
        x = self.act1(self.bn1(self.fc1(x)))
        x = self.act2(self.bn2(self.fc2(x)))
        return self.act3(self.bn3(self.drop(self.fc3(x))))  # type: ignore[no-any-return]

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Compute logits from the last hidden layer (N, width), or with `pre_logits` return it."""
        return x if pre_logits else self.fc4(x)

    def feature_taps(self) -> list[str]:
        """Return the names of the three Hardtanhs."""
        return ["act1", "act2", "act3"]


@register_backbone
def mlp(
    *,
    num_classes: int,
    in_channels: int = 3,
    image_size: ImageSize,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    binary: Binary = True,
    input_binarizer: BinarizerFactory | None = None,
    weight_binarizer: BinarizerFactory | None = None,
    width: int = 2048,
    dropout: float = 0.5,
) -> MLP:
    """Build the three-layer perceptron.

    Width 6144, SKD-BNN's on MNIST (1x28x28, 10 classes), has 80,431,114 parameters, 80,314,368 of them binary. The
    reference clamps the biases of the binary layers to [-1, 1] after each optimizer step; a callback does so here.

    Args:
        num_classes: Width of the logits.
        in_channels: Channels of the images.
        image_size: Height and width of the images; a network fits one size only.
        mean: Normalization of the images; None, the published choice, leaves them in [0, 1].
        std: See `mean`.
        binary: False builds the float twin: the same network with torch's linear layers; "activations" keeps the
            weights real, the first of two training steps.
        input_binarizer: Of the second and third layer; None takes SignIdentity.
        weight_binarizer: None takes WeightSign with the identity as gradient.
        width: Units of each hidden layer.
        dropout: Probability to drop an output of the third layer.

    Raises:
        ValueError: A value out of range.

    References:
        Hubara et al., Binarized Neural Networks, NeurIPS 2016; Zeng et al., SKD-BNN, Applied Intelligence 54(6), 2024.
    """
    check_size("image_size", image_size, of="mlp")
    check_size("width", width, of="mlp")
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must be at least 0 and below 1, got {dropout}.")
    return MLP(
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        mean=mean,
        std=std,
        width=width,
        dropout=dropout,
        layers=layer_factory(binary, input_binarizer, weight_binarizer, defaults=("SignIdentity", "WeightSign")),
    )
