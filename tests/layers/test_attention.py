import pytest
import torch
from torch import nn

from bnn_lightning.layers import SqueezeExcite


@pytest.mark.parametrize("bias", [True, False])
def test_gate_is_the_formula(bias: bool) -> None:
    gate = SqueezeExcite(16, reduction=4, bias=bias).double()
    x = torch.randn(3, 16, 5, 4, dtype=torch.float64)
    squeeze, excite = gate.squeeze, gate.excite
    assert isinstance(squeeze, nn.Conv2d)
    assert isinstance(excite, nn.Conv2d)
    hidden = x.mean(3).mean(2) @ squeeze.weight[:, :, 0, 0].T
    hidden = torch.clamp(hidden if squeeze.bias is None else hidden + squeeze.bias, min=0)
    logits = hidden @ excite.weight[:, :, 0, 0].T
    logits = logits if excite.bias is None else logits + excite.bias
    assert squeeze.weight.shape == (4, 16, 1, 1)
    assert (squeeze.bias is not None) == (excite.bias is not None) == bias
    torch.testing.assert_close(gate(x), (1 / (1 + torch.exp(-logits)))[:, :, None, None])


def test_narrow_input_has_one_hidden_unit() -> None:
    assert SqueezeExcite(4)(torch.rand(2, 4, 3, 3)).shape == (2, 4, 1, 1)


def test_errors() -> None:
    with pytest.raises(ValueError, match="`channels` must be positive, got 0"):
        SqueezeExcite(0)
    with pytest.raises(ValueError, match="`reduction` must be positive, got 0"):
        SqueezeExcite(4, reduction=0)
