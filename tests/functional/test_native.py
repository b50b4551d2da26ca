"""Compiled signs and surrogate gradients against those that torch computes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bnn_lightning.functional import approx_sign, hardtanh_, native, sign_ede, sign_ste
from bnn_lightning.functional.sign import sign

SURROGATES: dict[str, Callable[[Tensor], Tensor]] = {
    "ste": lambda x: sign_ste(x, 1.25),
    "approx": approx_sign,
    "ede flat": lambda x: sign_ede(x, 0.02),
    "ede": lambda x: sign_ede(x, 1.7),
    "ede steep": lambda x: sign_ede(x, 10.0),
}
SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 1.0, -1.0, 1.25, -1.25, 1e38, -1e38, float("inf"), -float("inf"), float("nan")]

pytestmark = pytest.mark.skipif(native._library() is None, reason="no compiled library fits this processor")


@contextmanager
def without_library() -> Iterator[None]:
    kept, native._library = native._library, lambda: None  # type: ignore[assignment]
    try:
        yield
    finally:
        native._library = kept


def maps(dtype: torch.dtype, layout: str) -> Tensor:
    x = torch.randn(3, 5, 17, 131, generator=torch.Generator().manual_seed(0))  # more than a thread's share, odd
    x.view(-1)[: len(SPECIAL)] = torch.tensor(SPECIAL)
    x = x.to(dtype)
    return {"contiguous": x, "channels_last": x.contiguous(memory_format=torch.channels_last), "flat": x.flatten()}[
        layout
    ]


def value_and_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = function(x)
    y.backward(torch.linspace(-2, 2, x.numel()).view(x.shape).to(x).contiguous(memory_format=_format(x)))
    assert x.grad is not None
    return y.detach(), x.grad


def _format(x: Tensor) -> torch.memory_format:
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "flat"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SURROGATES)
def test_values_are_equal_and_gradients_but_for_rounding(name: str, dtype: torch.dtype, layout: str):
    x = maps(dtype, layout)
    assert native.sign(x) is not None
    value, gradient = value_and_gradient(SURROGATES[name], x)
    with without_library():
        plain_value, plain_gradient = value_and_gradient(SURROGATES[name], x)
    assert torch.equal(value.nan_to_num(7.0), plain_value.nan_to_num(7.0))
    assert value.stride() == plain_value.stride() == x.stride()
    tolerance = {} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}  # torch rounds each step to bfloat16
    torch.testing.assert_close(gradient, plain_gradient, equal_nan=True, **tolerance)
    assert gradient.stride() == x.stride()


@pytest.mark.parametrize("t", [1e-3, 0.5, 1.0, 10.0])
def test_gradient_of_ede_is_the_formulas(t: float):
    x = torch.linspace(-4, 4, 4001)
    _, gradient = value_and_gradient(lambda x: sign_ede(x, t), x)
    wide = x.double()
    slope = max(1 / t, 1.0) * t * (1 - torch.tanh(t * wide) ** 2) * torch.linspace(-2, 2, x.numel()).double()
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing(threads: int):
    x, before = maps(torch.float32, "contiguous").repeat(4, 1, 1, 1), torch.get_num_threads()
    alone = value_and_gradient(SURROGATES["ede"], x)
    torch.set_num_threads(threads)
    try:
        again = value_and_gradient(SURROGATES["ede"], x)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(alone, again, strict=True))


def test_views_with_gaps_and_other_types_are_left_to_torch():
    x = torch.randn(4, 6)
    assert native.sign(x[:, ::2]) is None
    assert native.sign(x.double()) is None
    assert native.sign(x.to("meta")) is None
    assert torch.equal(sign(x[:, ::2]), sign(x)[:, ::2])


@pytest.mark.parametrize("name", SURROGATES)
def test_tracers_and_transforms_see_torchs_operations(name: str):
    function, x = SURROGATES[name], torch.randn(2, 3)
    expected = value_and_gradient(function, x)[1]
    weights = torch.linspace(-2, 2, 6).view(2, 3)
    found = torch.func.grad(lambda x: (function(x) * weights).sum())(x)
    torch.testing.assert_close(found, expected)
    rows = torch.func.vmap(torch.func.grad(lambda row, w: (function(row) * w).sum()))(x, weights)
    torch.testing.assert_close(rows, expected)
    traced = torch.fx.experimental.proxy_tensor.make_fx(function)(x)
    assert torch.equal(traced(-x), function(-x))
    exported = torch.export.export(_Module(function), (x,)).module()
    assert torch.equal(exported(-x), function(-x))


class _Module(torch.nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("name", SURROGATES)
def test_second_derivatives_are_those_of_torchs_operations(name: str):
    def second() -> list[Tensor]:
        x = torch.linspace(-0.9, 0.9, 12).requires_grad_()
        grad = torch.linspace(1, 2, 12).requires_grad_()
        (first,) = torch.autograd.grad(SURROGATES[name](x), x, grad, create_graph=True)
        return [first.detach(), *torch.autograd.grad(first.sum(), [x, grad], allow_unused=True)]

    compiled = second()
    with without_library():
        plain = second()
    for a, b in zip(compiled, plain, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_hardtanh_in_place_keeps_no_copy(dtype: torch.dtype):
    leaf = maps(torch.float32, "contiguous").to(dtype).requires_grad_()
    x = leaf * 1
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.data_ptr()), t)[1], lambda t: t):
        y = hardtanh_(x)
    assert y.data_ptr() == x.data_ptr()
    assert kept == [y.data_ptr()]
    y.sum().backward()
    other = leaf.detach().clone().requires_grad_()
    expected = F.hardtanh(other)
    expected.sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(y, expected, equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(leaf.grad, other.grad, equal_nan=True, rtol=0, atol=0)
