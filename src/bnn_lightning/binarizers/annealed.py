"""Activation binarizers whose surrogate gradient changes in the course of training."""

from torch import Tensor

from bnn_lightning.binarizers.base import AnnealedBinarizer, InputBinarizer, check_progress, scalar_buffer
from bnn_lightning.functional.annealing import ede_sharpness
from bnn_lightning.functional.sign import reste, sign_ede
from bnn_lightning.utils.checks import check_positive


class EDE(AnnealedBinarizer):
    """The state of the error decay estimator: sharpness `t`, from `t_min` to `t_max` in equal ratios.

    Args:
        t_min: Sharpness at progress 0.
        t_max: Sharpness at progress 1.
    """

    t: Tensor

    def __init__(self, t_min: float = 1e-3, t_max: float = 10.0) -> None:
        super().__init__()
        if not 0 < t_min <= t_max:
            raise ValueError(f"`t_min` and `t_max` must satisfy 0 < t_min <= t_max, got {t_min} and {t_max}.")
        self.t_min, self.t_max = t_min, t_max
        self.register_buffer("t", scalar_buffer(t_min))

    def set_progress(self, progress: float) -> None:
        self.t.fill_(ede_sharpness(check_progress(progress), self.t_min, self.t_max))

    def extra_repr(self) -> str:
        return f"t_min={self.t_min}, t_max={self.t_max}"


class SignEDE(EDE, InputBinarizer):
    """Binarize with `functional.sign_ede`: gradient `k t (1 - tanh^2(t x))`, `k = max(1/t, 1)` (IR-Net).

    Args:
        t_min: Sharpness at progress 0.
        t_max: Sharpness at progress 1.

    Example:
        >>> import torch
        >>> binarizer = SignEDE()
        >>> binarizer.set_progress(0.5)
        >>> binarizer.t
        tensor(0.1000)
        >>> binarizer(torch.tensor([-0.2, 0.0]))
        tensor([-1.,  1.])
    """

    def forward(self, x: Tensor) -> Tensor:
        return sign_ede(x, self.t)


class ReSTE(AnnealedBinarizer, InputBinarizer):
    """Binarize with `functional.reste`: gradient `|x|^((1 - o) / o) / o`, with o from 1 to `power_end`.

    Args:
        power_end: o at progress 1; it grows linearly from 1 (the clipped identity).
        clip: The gradient is 0 where `|x| > clip`.
        limit: Magnitude below which the gradient is constant.

    Example:
        >>> import torch
        >>> binarizer = ReSTE()
        >>> binarizer.set_progress(0.5)
        >>> binarizer.power
        tensor(2.)
        >>> binarizer(torch.tensor([-0.2, 0.0]))
        tensor([-1.,  1.])
    """

    power: Tensor

    def __init__(self, power_end: float = 3.0, clip: float = 1.5, limit: float = 0.1) -> None:
        super().__init__()
        if power_end < 1:
            raise ValueError(f"`power_end` must be at least 1 (1 is the clipped identity), got {power_end}.")
        check_positive("clip", clip)
        if not 0 < limit <= clip:
            raise ValueError(f"`limit` must be positive and at most `clip` = {clip}, got {limit}.")
        self.power_end, self.clip, self.limit = power_end, clip, limit
        self.register_buffer("power", scalar_buffer(1.0))

    def set_progress(self, progress: float) -> None:
        self.power.fill_(1.0 + check_progress(progress) * (self.power_end - 1.0))

    def forward(self, x: Tensor) -> Tensor:
        return reste(x, self.power, self.clip, self.limit)

    def extra_repr(self) -> str:
        return f"power_end={self.power_end}, clip={self.clip}, limit={self.limit}"
