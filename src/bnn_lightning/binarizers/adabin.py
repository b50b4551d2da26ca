"""AdaBin: activations and weights in learned or measured sets of two values."""

import torch
from torch import Tensor, nn

from bnn_lightning.binarizers.annealed import EDE
from bnn_lightning.binarizers.base import InputBinarizer, WeightBinarizer
from bnn_lightning.functional.adabin import adabin_sign, center_and_deviation
from bnn_lightning.functional.sign import sign_ede


class AdaBinInput(InputBinarizer):
    """Binarize activations with `functional.adabin_sign`: one learnable width and center a layer.

    The output is the sign s of `(x - beta) / alpha`, which stands for `alpha * (s + beta)`: the layer applies `scale()`
    and `offset()` after the dot product. Padded pixels are 0 and not `offset()`, as in the authors' code.

    Example:
        >>> binarizer = AdaBinInput()
        >>> _ = nn.init.constant_(binarizer.beta, 0.5)
        >>> binarizer(torch.tensor([[0.4, 0.5]])), binarizer.offset()
        (tensor([[-1.,  1.]], grad_fn=<_ApproxSignBackward>), tensor([0.5000], grad_fn=<MulBackward0>))

    References:
        Tu et al., AdaBin, ECCV 2022.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1))
        self.beta = nn.Parameter(torch.zeros(1))

    def threshold(self) -> Tensor:
        """Return beta, (1,): while alpha is positive, the output is +1 from there on."""
        return self.beta.detach()

    def scale(self) -> Tensor:
        return self.alpha

    def offset(self) -> Tensor:
        return self.alpha * self.beta

    def forward(self, x: Tensor) -> Tensor:
        return adabin_sign(x, self.alpha, self.beta)


class AdaBinWeights(EDE, WeightBinarizer):
    """Binarize weights to `deviation * sign + mean` of each output channel, with EDE's gradient of the sign.

    What is signed is `(w - mean) / deviation`; gradients flow through mean and deviation, too. The deviation is the
    scale and the mean is the offset that the layer applies after the dot product.

    Args:
        t_min: EDE's sharpness at progress 0.
        t_max: EDE's sharpness at progress 1.

    Example:
        >>> binarizer, weight = AdaBinWeights(), torch.tensor([[1.0, 3.0, 5.0, 7.0]])
        >>> signs, scale = binarizer.binarize(weight)
        >>> signs, scale, binarizer.offset(weight)
        (tensor([[-1., -1.,  1.,  1.]]), tensor([2.2361]), tensor([4.]))

    References:
        Tu et al., AdaBin, ECCV 2022.
    """

    def binarize(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        latent, deviation = _standardize(weight)
        return self.sign(latent), deviation

    def latent(self, weight: Tensor) -> Tensor:
        return _standardize(weight)[0]

    def sign(self, latent: Tensor) -> Tensor:
        return sign_ede(latent, self.t)

    def scale(self, weight: Tensor) -> Tensor:
        return center_and_deviation(weight)[1]

    def offset(self, weight: Tensor) -> Tensor:
        return weight.flatten(1).mean(1)


def _standardize(weight: Tensor) -> tuple[Tensor, Tensor]:
    shape = (-1, *[1] * (weight.dim() - 1))
    center, deviation = center_and_deviation(weight)
    return (weight - center.view(shape)) / deviation.view(shape), deviation
