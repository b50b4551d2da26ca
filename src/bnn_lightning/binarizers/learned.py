"""Activation binarizers with learnable parameters."""

from typing import Literal

import torch
from torch import Tensor, nn

from bnn_lightning.binarizers.base import InputBinarizer
from bnn_lightning.functional.sign import approx_sign, round_down, sign_ste
from bnn_lightning.utils.checks import check_choice, check_integer, check_positive

Surrogate = Literal["approx_sign", "sign_ste"]


class RSign(InputBinarizer):
    """Binarize with a learnable shift of each channel: value `sign(x + bias)`, so +1 from `threshold() = -bias` on.

    The gradient is that of the surrogate at `x + bias`, for x and for the bias alike (for the bias, summed over a
    channel). ReActNet writes `x >= alpha`, with `alpha = -bias`; published files hold the bias.

    Args:
        num_channels: Channels of x, its dimension 1.
        surrogate: "approx_sign" (ReActNet), gradient `max(2 - 2|x + bias|, 0)`; or "sign_ste", gradient 1 where
            `|x + bias| <= clip`, else 0.
        clip: Clip of "sign_ste" (BNext takes 1.5).

    Raises:
        ValueError: A value out of its range.

    Example:
        >>> rsign = RSign(2)
        >>> _ = torch.nn.init.constant_(rsign.bias, 0.25)
        >>> x = torch.tensor([[-0.25, -0.5]], requires_grad=True)
        >>> y = rsign(x)
        >>> y.sum().backward()
        >>> y, x.grad, rsign.bias.grad
        (tensor([[ 1., -1.]], grad_fn=<_ApproxSignBackward>), tensor([[2.0000, 1.5000]]), tensor([2.0000, 1.5000]))
        >>> rsign.threshold()
        tensor([-0.2500, -0.2500])

    References:
        Liu et al., ReActNet, ECCV 2020: RSign.
    """

    def __init__(self, num_channels: int, surrogate: Surrogate = "approx_sign", clip: float = 1.0) -> None:
        super().__init__()
        check_integer("num_channels", num_channels, 1)
        check_choice("surrogate", surrogate, Surrogate)
        check_positive("clip", clip)
        self.surrogate, self.clip = surrogate, clip
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def threshold(self) -> Tensor:
        # Rounded sums have the sign of exact ones, so x + bias >= 0 where and only where x >= -bias.
        return -self.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        shifted = x + round_down(self.bias, x.dtype).view(-1, *[1] * (x.dim() - 2))
        return approx_sign(shifted) if self.surrogate == "approx_sign" else sign_ste(shifted, self.clip)

    def extra_repr(self) -> str:
        clip = f", clip={self.clip}" if self.surrogate == "sign_ste" else ""
        return f"{self.bias.numel()}, surrogate={self.surrogate!r}{clip}"
