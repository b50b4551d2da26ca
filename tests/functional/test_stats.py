"""Sign statistics against counting by hand."""

import math

import pytest
import torch

from bnn_lightning.functional import sign_entropy


@pytest.mark.parametrize("positive", [0, 1, 3, 8])
def test_entropy_is_the_binary_entropy_of_the_share(positive: int) -> None:
    x = torch.tensor([1.0] * positive + [-1.0] * (8 - positive))
    share = positive / 8
    expected = -sum(p * math.log2(p) for p in (share, 1 - share) if p > 0)
    assert sign_entropy(x).item() == pytest.approx(expected, abs=1e-6)
