"""RSign: the sign of a shifted input, with gradients of input and shift."""

import pytest
import torch
from torch import Tensor

from bnn_lightning.binarizers import RSign, binarizer_factory

GRADIENTS = {
    "approx_sign": lambda v: max(2 - 2 * abs(v), 0.0),
    "sign_ste": lambda v: float(abs(v) <= 1.5),
}
every_surrogate = pytest.mark.parametrize("surrogate", GRADIENTS)


def shifted(surrogate: str, bias: list[float]) -> RSign:
    rsign = RSign(len(bias), surrogate, clip=1.5).double()  # type: ignore[arg-type]
    rsign.bias.data = torch.tensor(bias, dtype=torch.float64)
    return rsign


@every_surrogate
def test_value_and_gradients_are_the_formula(surrogate: str) -> None:
    bias = [0.3, -0.7]
    rsign = shifted(surrogate, bias)
    values = [[-2.0, -0.3, -0.30001, 0.0, 1.1, 1.3], [0.7, 0.69999, -0.9, 2.3, 0.0, 1.0]]
    x = torch.tensor(values, dtype=torch.float64)[None, :, :, None].requires_grad_()
    upstream = torch.arange(1.0, 13.0, dtype=torch.float64).view(1, 2, 6, 1)
    y = rsign(x)
    y.backward(upstream)
    signs = [[1.0 if value + b >= 0 else -1.0 for value in row] for row, b in zip(values, bias, strict=True)]
    assert y[0, :, :, 0].tolist() == signs
    slopes = [[GRADIENTS[surrogate](value + b) for value in row] for row, b in zip(values, bias, strict=True)]
    expected = upstream * torch.tensor(slopes, dtype=torch.float64)[None, :, :, None]
    torch.testing.assert_close(x.grad, expected)
    torch.testing.assert_close(rsign.bias.grad, expected.sum((0, 2, 3)))


def test_threshold_is_where_the_output_becomes_positive_to_the_bit() -> None:
    rsign = RSign(1000)
    torch.nn.init.normal_(rsign.bias, generator=torch.Generator().manual_seed(0))
    at = rsign.threshold()
    below = torch.nextafter(at, torch.tensor(-torch.inf))
    assert (rsign(at[None]) == 1).all()
    assert (rsign(below[None]) == -1).all()


@every_surrogate
def test_two_and_four_dimensions_and_nan(surrogate: str) -> None:
    rsign = RSign(3, surrogate)  # type: ignore[arg-type]
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(rsign(x), torch.where(x >= 0, 1.0, -1.0))
    assert torch.equal(rsign(x[:, :, 0, 0]), torch.where(x[:, :, 0, 0] >= 0, 1.0, -1.0))
    assert rsign(torch.full((1, 3), torch.nan)).isnan().all()


@every_surrogate
def test_compiles_into_one_graph_with_its_gradients(surrogate: str) -> None:
    rsign, x = shifted(surrogate, [0.3, -0.7]), torch.randn(4, 2, 3, dtype=torch.float64)

    def step(module: torch.nn.Module) -> tuple[Tensor, ...]:
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        return (y, *torch.autograd.grad((y * x).sum(), (leaf, rsign.bias)))

    compiled = torch.compile(rsign, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(step(compiled), step(rsign))


@every_surrogate
def test_exports_with_any_batch(surrogate: str) -> None:
    rsign, x = RSign(2, surrogate), torch.randn(7, 2, 3, 3)  # type: ignore[arg-type]
    program = torch.export.export(rsign, (x[:3],), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    assert torch.equal(program.module()(x), rsign(x))


@every_surrogate
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_signs_before_anything_is_rounded(surrogate: str, dtype: torch.dtype) -> None:
    rsign = shifted(surrogate, [1e-30, -1.0]).float()
    with torch.autocast("cpu", dtype):
        y = rsign(torch.tensor([[-1e-30, 1.0 - 2**-20], [-2e-30, 1.0]]))
    assert y.tolist() == [[1, -1], [-1, 1]]


def test_options_by_name() -> None:
    made = binarizer_factory("RSign", surrogate="sign_ste", clip=1.5)(4)
    assert repr(made) == "RSign(4, surrogate='sign_ste', clip=1.5)"
    for options, message in (
        ({"surrogate": "tanh"}, "`surrogate` must be one of"),
        ({"clip": 0.0}, "`clip` must be positive, got 0"),
        ({"num_channels": 3}, "has no option `num_channels`. It has: surrogate, clip"),
    ):
        with pytest.raises(ValueError, match=message):
            binarizer_factory("RSign", **options)
    with pytest.raises(ValueError, match="`num_channels` must be a whole number of at least 1, got 0"):
        RSign(0)
