"""Activations with learnable shifts, against the formula."""

import pytest
import torch

from bnn_lightning.layers import LearnableBias, RPReLU


def activation() -> RPReLU:
    module = RPReLU(2).double()
    module.shift_in.bias.data = torch.tensor([0.5, -1.0], dtype=torch.float64)
    module.prelu.weight.data = torch.tensor([0.1, -2.0], dtype=torch.float64)
    module.shift_out.bias.data = torch.tensor([3.0, 4.0], dtype=torch.float64)
    return module


def test_rprelu_is_the_formula_with_its_gradients() -> None:
    module = activation()
    x = torch.randn(5, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    before, slope, after = (p.view(1, 2, 1, 1) for p in module.parameters())
    expected = torch.where(x + before > 0, x + before, slope * (x + before)) + after
    y = module(x)
    torch.testing.assert_close(y, expected)
    wanted = (x, *module.parameters())
    upstream = torch.randn_like(y)
    for got, reference in zip(
        torch.autograd.grad(y, wanted, upstream), torch.autograd.grad(expected, wanted, upstream), strict=True
    ):
        torch.testing.assert_close(got, reference)


def test_it_begins_as_a_prelu() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(RPReLU(3)(x), torch.nn.PReLU(3)(x))
    assert torch.equal(RPReLU(3, init=0.5)(x[:, :, 0, 0]), torch.nn.PReLU(3, 0.5)(x[:, :, 0, 0]))


def test_it_compiles_and_exports() -> None:
    module, x = activation(), torch.randn(4, 2, 3, 3, dtype=torch.float64)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x))
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    torch.testing.assert_close(program.module()(x[:3]), module(x[:3]))


@pytest.mark.parametrize("kind", [LearnableBias, RPReLU])
def test_wrong_sizes_are_refused(kind: type) -> None:
    with pytest.raises(ValueError, match="`num_channels` must be a whole number of at least 1, got 0"):
        kind(0)
