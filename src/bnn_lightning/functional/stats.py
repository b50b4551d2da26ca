"""Statistics of signs."""

import math

import torch
from torch import Tensor


def sign_entropy(x: Tensor) -> Tensor:
    """Return the entropy, in bits, of the signs in `x`: 1 when half of them are positive, 0 when all agree.

    Example:
        >>> sign_entropy(torch.tensor([-1.0, 1.0, -3.0, 0.0]))
        tensor(1.)
    """
    positive = (x >= 0).to(torch.float32).mean()
    both = torch.stack([positive, 1 - positive])
    return -torch.xlogy(both, both).sum() / math.log(2.0)
