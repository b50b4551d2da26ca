"""Every surrogate against its formula in plain Python, in float64, and under torch's transformations."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from bnn_lightning.functional.annealing import ede_sharpness
from bnn_lightning.functional.sign import (
    approx_sign,
    reste,
    round_down,
    sign,
    sign_ede,
    sign_identity,
    sign_ste,
    swish_sign,
)


def _swish_gradient(x: float, beta: float) -> float:
    return beta * (2 - beta * x * math.tanh(beta * x / 2)) / (1 + math.cosh(beta * x))


def _reste_gradient(x: float, power: float, clip: float, limit: float) -> float:
    return 0.0 if abs(x) > clip else max(abs(x), limit) ** ((1 - power) / power) / power


def _ede_gradient(x: float, t: float) -> float:
    return max(1 / t, 1) * t * (1 - math.tanh(t * x) ** 2)


SURROGATES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[float], float]]] = {
    "clipped_identity_1": (sign_ste, lambda x: float(abs(x) <= 1)),
    "clipped_identity_1.5": (partial(sign_ste, clip=1.5), lambda x: float(abs(x) <= 1.5)),
    "clipped_identity_inf": (partial(sign_ste, clip=math.inf), lambda x: 1.0),
    "identity": (sign_identity, lambda x: 1.0),
    "approx_sign": (approx_sign, lambda x: max(2 - 2 * abs(x), 0.0)),
    "swish_sign_5": (swish_sign, partial(_swish_gradient, beta=5.0)),
    "swish_sign_2": (partial(swish_sign, beta=2.0), partial(_swish_gradient, beta=2.0)),
    "reste_1": (partial(reste, power=1.0), partial(_reste_gradient, power=1.0, clip=1.5, limit=0.1)),
    "reste_3": (
        partial(reste, power=3.0, clip=1.2, limit=0.2),
        partial(_reste_gradient, power=3.0, clip=1.2, limit=0.2),
    ),
    "ede_0.01": (partial(sign_ede, t=0.01), partial(_ede_gradient, t=0.01)),
    "ede_2": (partial(sign_ede, t=2.0), partial(_ede_gradient, t=2.0)),
}
POINTS = [-40.0, -2.0, -1.5, -1.2, -1.0, -0.75, -0.3, -0.1, -1e-300, -0.0, 0.0, 5e-324, 0.2, 0.5, 1.0, 1.5, 1.6, 40.0]

every_surrogate = pytest.mark.parametrize("name", SURROGATES)


@every_surrogate
def test_value_and_gradient_are_the_formula(name: str) -> None:
    function, gradient = SURROGATES[name]
    x = torch.tensor(POINTS, dtype=torch.float64, requires_grad=True)
    upstream = torch.linspace(-2, 3, len(POINTS), dtype=torch.float64)

    y = function(x)
    y.backward(upstream)

    assert y.tolist() == [1.0 if point >= 0 else -1.0 for point in POINTS]
    expected = [gradient(point) * weight for point, weight in zip(POINTS, upstream.tolist(), strict=True)]
    torch.testing.assert_close(x.grad, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_zero_is_positive_and_nan_stays() -> None:
    x = torch.tensor([0.0, -0.0, 1e-45, -1e-45, math.inf, -math.inf, math.nan])
    assert sign(x)[:-1].tolist() == [1, 1, 1, -1, 1, -1]
    assert sign(x)[-1].isnan()


@every_surrogate
def test_nan_propagates_through_every_surrogate(name: str) -> None:
    assert SURROGATES[name][0](torch.tensor([1.0, math.nan])).isnan().tolist() == [False, True]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_float_dtype_keeps_dtype_layout_and_signs(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    x = x.to(memory_format=torch.channels_last)
    y = sign(x)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y > 0, x >= 0)


@every_surrogate
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_the_signs_alone(name: str, dtype: torch.dtype) -> None:
    x = torch.tensor(
        [1e-30, -1e-30, -1e-45, 0.3, -0.3]
    )  # smaller than float16 can hold: rounding first would lose them
    with torch.autocast("cpu", dtype):
        assert SURROGATES[name][0](x).tolist() == [1, -1, -1, 1, -1]


@every_surrogate
def test_compiles_into_one_graph_with_its_gradient(name: str) -> None:
    function, _ = SURROGATES[name]
    eager = torch.tensor(POINTS, requires_grad=True)
    compiled = torch.tensor(POINTS, requires_grad=True)
    function(eager).sum().backward()
    torch.compile(function, fullgraph=True, backend="aot_eager")(compiled).sum().backward()
    torch.testing.assert_close(compiled.grad, eager.grad)


@every_surrogate
def test_vmaps_over_values_and_gradients(name: str) -> None:
    function, _ = SURROGATES[name]
    x = torch.tensor(POINTS).view(3, -1)
    assert torch.equal(torch.vmap(function)(x), function(x))
    gradients = torch.vmap(torch.func.grad(lambda row: function(row).sum()))(x)
    leaf = x.clone().requires_grad_()
    function(leaf).sum().backward()
    torch.testing.assert_close(gradients, leaf.grad)


@every_surrogate
def test_gradients_in_a_batch_and_of_gradients(name: str) -> None:
    function, _ = SURROGATES[name]
    x = torch.tensor(POINTS, requires_grad=True)
    (slope,) = torch.autograd.grad(function(x).sum(), x)
    (jacobian,) = torch.autograd.grad(function(x), x, torch.eye(len(POINTS)), is_grads_batched=True)
    torch.testing.assert_close(jacobian, slope.diag())
    upstream = torch.ones_like(x, requires_grad=True)
    (given,) = torch.autograd.grad(function(x), x, upstream, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(given.sum(), upstream)[0], slope)


@every_surrogate
def test_exports(name: str) -> None:
    function, _ = SURROGATES[name]

    class Wrapped(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    x = torch.tensor(POINTS)
    program = torch.export.export(Wrapped(), (x,), dynamic_shapes=({0: torch.export.Dim("n", min=2)},))
    assert torch.equal(program.module()(x[:7]), sign(x[:7]))


def test_ede_sharpness_is_the_published_schedule() -> None:
    """Specification A8, E = 700."""
    got = [ede_sharpness(epoch / 700) for epoch in (0, 175, 350, 525, 699)]
    assert got == pytest.approx([0.001, 0.01, 0.1, 1.0, 9.869286], rel=1e-7)


def test_the_clipped_identity_saves_one_byte_an_element() -> None:
    x = torch.randn(1000, requires_grad=True)
    saved: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.element_size() * tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        sign_ste(x)
    assert sum(saved) == 1000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_shift_that_is_rounded_down_changes_no_sign(dtype: torch.dtype) -> None:
    bias = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    shift = round_down(bias, dtype)
    assert shift.dtype == dtype
    assert bool((shift.float() <= bias).all())
    nearest = (-bias).to(dtype)
    infinity = torch.full_like(nearest, math.inf)
    for x in (nearest, torch.nextafter(nearest, infinity), torch.nextafter(nearest, -infinity)):
        assert torch.equal(x + shift >= 0, x.double() + bias.double() >= 0)
    assert round_down(bias, torch.float64).dtype == torch.float64
    leaf = bias.clone().requires_grad_()
    round_down(leaf, dtype).sum().backward()
    assert leaf.grad is not None
    assert bool((leaf.grad == 1).all())


def test_the_clipped_identity_in_half_precision_is_the_formula() -> None:
    x = torch.linspace(-3, 3, 2001).to(torch.bfloat16).requires_grad_()
    upstream = torch.randn(2001, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    y = sign_ste(x, 1.5)
    y.backward(upstream)
    assert torch.equal(y > 0, x >= 0)
    assert torch.equal(x.grad, torch.where(x.abs() <= 1.5, upstream, 0))


def test_ede_in_half_precision_is_close_to_the_formula_where_it_is_small() -> None:
    """1 - tanh^2 computed as such is 0 or 1/256 there."""
    x = torch.linspace(2, 6, 50).to(torch.bfloat16).requires_grad_()
    sign_ede(x, torch.tensor(1.0)).sum().backward()
    expected = torch.cosh(x.detach().double()) ** -2
    assert x.grad is not None
    torch.testing.assert_close(x.grad.double(), expected, rtol=0.03, atol=0)
