import pytest
import torch
from torch import nn

from bnn_lightning.layers import ChannelBlend, SqueezeExcite


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


def test_mix_is_the_formula_with_its_gradient() -> None:
    mix = ChannelBlend(3).double()
    assert mix.scale.tolist() == [0.5] * 3
    mix.scale.data = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    x, y = (torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    out = mix(x, y)
    for c, beta in enumerate((0.0, 0.3, 1.0)):
        torch.testing.assert_close(out[:, c], beta * x[:, c] + (1 - beta) * y[:, c])
    out.backward(upstream := torch.randn_like(out))
    assert mix.scale.grad is not None
    torch.testing.assert_close(mix.scale.grad, (upstream * (x - y)).sum((0, 2, 3)).detach())


def test_errors() -> None:
    with pytest.raises(ValueError, match="`channels` must be positive, got 0"):
        SqueezeExcite(0)
    with pytest.raises(ValueError, match="`num_channels` must be a whole number of at least 1, got 0"):
        ChannelBlend(0)
    with pytest.raises(ValueError, match="`reduction` must be positive, got 0"):
        SqueezeExcite(4, reduction=0)
