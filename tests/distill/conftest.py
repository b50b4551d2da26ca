"""A home-made backbone with everything that a generic distiller has to survive."""

import pytest
import torch
from torch import Tensor, nn

from bnn_lightning.binarizers import SignSTE, WeightSign, XNORScale
from bnn_lightning.layers import BinaryConv2d, BinaryLinear


class HomeMade(nn.Module):
    """Branches, a layer that is called twice, a shared activation (also in the stem), biases, dropout, a scale."""

    classifier_name = "top"

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        binary = {"input_binarizer": SignSTE(), "weight_binarizer": WeightSign()}
        self.stem = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Dropout(dropout))
        self.act = nn.Hardtanh()
        self.twice = BinaryConv2d(6, 6, 3, padding=1, **binary)
        self.bn = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(2))
        self.left = BinaryConv2d(6, 4, 1, input_binarizer=SignSTE(), weight_binarizer=XNORScale(), pad_value=0)
        self.right = BinaryConv2d(6, 4, 3, padding=1, bias=False, pad_value=-1, **binary)
        self.joined = nn.Hardtanh(inplace=True)
        self.after = BinaryLinear(4, 5, **binary)
        self.last = nn.Tanh()
        self.top = nn.Linear(5, 3)

    def forward(self, x: Tensor, *, gain: float = 1.0) -> Tensor:
        x = self.act(self.stem(x * gain))
        x = self.act(self.bn[0](self.twice(x)) + x)
        x = self.act(self.bn[1](self.twice(x)) + x)
        x = self.joined(self.left(x) * 0.1 + self.right(x) * 0.2)
        x = self.last(self.after(x.mean((2, 3))))
        return self.top(x)

    def feature_taps(self) -> list[str]:
        return ["act", "joined", "last"]


@pytest.fixture
def home_made() -> HomeMade:
    torch.manual_seed(0)
    return HomeMade()


@pytest.fixture
def home_made_with_dropout() -> HomeMade:
    torch.manual_seed(0)
    return HomeMade(dropout=0.5)
