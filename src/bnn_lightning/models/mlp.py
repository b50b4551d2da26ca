"""The three-layer binary perceptron of BinaryNet and SKD-BNN for MNIST."""

import math
from typing import Any

from torch import Tensor, nn

from bnn_lightning.layers.activation import Hardtanh
from bnn_lightning.models.backbone import Backbone, check_size
from bnn_lightning.models.blocks import LayerFactory
from bnn_lightning.models.builder import register_binary
from bnn_lightning.utils.image_size import sides


class MLP(Backbone):
    """Three binary linear layers with real biases, batch norm and Hardtanh, and a real classifier.

    The images are flattened and stay real: the first layer has binary weights only. Logits are returned, not their
    log-softmax, which the reference adds (cross-entropy and the soft-label bank are blind to the difference). The
    penultimate feature is the last Hardtanh's output; SKD-BNN's reference takes the logits of this one network as such
    in its cluster loss.

    Args:
        width: Units of each hidden layer.
        dropout: Probability to drop an output of the third layer.
        layers: Makes the three layers that are binary.
        **frame: As `Backbone` takes it.
    """

    classifier_name = "fc4"

    def __init__(
        self,
        *,
        width: int,
        dropout: float,
        layers: LayerFactory,
        **frame: Any,
    ) -> None:
        super().__init__(num_features=width, **frame)
        self.fc1 = layers.linear(self.in_channels * math.prod(sides(self.image_size)), width, real_input=True)
        self.bn1 = nn.BatchNorm1d(width)
        self.act1 = Hardtanh(inplace=True)
        self.fc2 = layers.linear(width, width)
        self.bn2 = nn.BatchNorm1d(width)
        self.act2 = Hardtanh(inplace=True)
        self.fc3 = layers.linear(width, width)
        self.drop = nn.Dropout(dropout)
        self.bn3 = nn.BatchNorm1d(width)
        self.act3 = Hardtanh(inplace=True)
        self.fc4 = nn.Linear(width, self.num_classes)

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


@register_binary("SignIdentity", "WeightSign", pad_value=None)
def mlp(layers: LayerFactory, *, width: int = 2048, dropout: float = 0.5, **frame: Any) -> MLP:
    """Build the three-layer perceptron.

    Width 6144, SKD-BNN's on MNIST (1x28x28, 10 classes), has 80,431,114 parameters, 80,314,368 of them binary. The
    reference clamps the biases of the binary layers to [-1, 1] after each optimizer step; a callback does so here.

    Args:
        layers: Makes the binary layers.
        image_size: Height and width of the images; a network fits one size only.
        input_binarizer: Binarizer of the second and third layer; None takes SignIdentity.
        weight_binarizer: None takes WeightSign with the identity as gradient.
        width: Units of each hidden layer.
        dropout: Probability to drop an output of the third layer.
        **frame: As `Backbone` takes it.

    Raises:
        ValueError: A value out of range.

    References:
        Hubara et al., Binarized Neural Networks, NeurIPS 2016; Zeng et al., SKD-BNN, Applied Intelligence 54(6), 2024.
    """
    check_size("image_size", frame["image_size"], of="mlp")
    check_size("width", width, of="mlp")
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must be at least 0 and below 1, got {dropout}.")
    return MLP(width=width, dropout=dropout, layers=layers, **frame)
