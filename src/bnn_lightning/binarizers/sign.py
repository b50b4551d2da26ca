"""Activation binarizers with a fixed surrogate gradient."""

from torch import Tensor

from bnn_lightning.binarizers.base import InputBinarizer
from bnn_lightning.functional.sign import approx_sign, sign_identity, sign_ste, swish_sign
from bnn_lightning.utils.checks import check_positive


class SignSTE(InputBinarizer):
    """Binarize with `functional.sign_ste`: gradient 1 where `|x| <= clip`, else 0.

    Args:
        clip: Half-width of the support of the gradient.

    Example:
        >>> import torch
        >>> SignSTE(clip=1.5)(torch.tensor([-0.2, 0.0]))
        tensor([-1.,  1.])
    """

    def __init__(self, clip: float = 1.0) -> None:
        super().__init__()
        check_positive("clip", clip)
        self.clip = clip

    def forward(self, x: Tensor) -> Tensor:
        return sign_ste(x, self.clip)

    def extra_repr(self) -> str:
        return f"clip={self.clip}"


class SignIdentity(InputBinarizer):
    """Binarize with `functional.sign_identity`: gradient 1 everywhere.

    Example:
        >>> import torch
        >>> SignIdentity()(torch.tensor([-0.2, 0.0]))
        tensor([-1.,  1.])
    """

    def forward(self, x: Tensor) -> Tensor:
        return sign_identity(x)


class ApproxSign(InputBinarizer):
    """Binarize with `functional.approx_sign`: gradient `max(2 - 2|x|, 0)` (Bi-Real Net).

    Example:
        >>> import torch
        >>> ApproxSign()(torch.tensor([-0.2, 0.0]))
        tensor([-1.,  1.])
    """

    def forward(self, x: Tensor) -> Tensor:
        return approx_sign(x)


class SwishSign(InputBinarizer):
    """Binarize with `functional.swish_sign`: gradient `beta (2 - beta x tanh(beta x / 2)) / (1 + cosh(beta x))`.

    Args:
        beta: Sharpness of the surrogate.

    Example:
        >>> import torch
        >>> SwishSign(beta=5.0)(torch.tensor([-0.2, 0.0]))
        tensor([-1.,  1.])
    """

    def __init__(self, beta: float = 5.0) -> None:
        super().__init__()
        check_positive("beta", beta)
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        return swish_sign(x, self.beta)

    def extra_repr(self) -> str:
        return f"beta={self.beta}"
