"""Kernels of values one by one compute what torch does, on every instruction set."""

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bnn_lightning.deploy.kernels import library as kernels
from bnn_lightning.deploy.kernels.abi import Binary, Copying, Function, Padding, Pair, Reduction, Softmax, Unary

CASES = 24
NAMES = ("image", "0", "1", "2")
# The same of torch, the parameters a and b, and the largest difference, relative to values above 1; 0 is equal bits.
FUNCTIONS: dict[Function, tuple[Callable[[Tensor], Tensor], tuple[float, float], float]] = {
    Function.SIGMOID: (torch.sigmoid, (0, 0), 3e-7),
    Function.TANH: (torch.tanh, (0, 0), 3e-7),
    Function.HARDSIGMOID: (F.hardsigmoid, (0, 0), 0),
    Function.HARDSWISH: (F.hardswish, (0, 0), 0),
    Function.SILU: (F.silu, (0, 0), 5e-7),
    Function.GELU: (F.gelu, (0, 0), 1e-6),
    Function.GELU_TANH: (lambda x: F.gelu(x, approximate="tanh"), (0, 0), 1e-6),
    Function.LEAKY_RELU: (lambda x: F.leaky_relu(x, 0.25), (0.25, 0), 0),
    Function.CLAMP: (lambda x: x.clamp(-0.5, 1.5), (-0.5, 1.5), 0),
    Function.ADD_NUMBER: (lambda x: x + 0.3, (0.3, 0), 0),
    Function.MULTIPLY_NUMBER: (lambda x: x * 0.3, (0.3, 0), 0),
    Function.DIVIDE_NUMBER: (lambda x: x / 0.3, (0.3, 0), 0),
}
PAIRS = {Pair.ADD: torch.add, Pair.SUBTRACT: torch.sub, Pair.MULTIPLY: torch.mul, Pair.DIVIDE: torch.div}


@pytest.fixture(params=kernels.supported_kernels())
def kernel(request: pytest.FixtureRequest) -> kernels.Kernel:
    return kernels.Kernel(request.param)


def strides(name: str, tensor: Tensor) -> dict[str, int]:
    return {f"{name}_{place}": step for place, step in zip(NAMES, tensor.stride(), strict=True)}


def sizes(tensor: Tensor) -> dict[str, int]:
    names = ("images", "size_0", "size_1", "size_2")
    return dict(zip(names, tensor.shape, strict=True))


def drawn(r: random.Random) -> Tensor:
    x = torch.randn([r.randint(1, 6) for _ in range(3)] + [r.randint(1, 40)])
    x = x[:, :, : r.randint(1, x.shape[2]), r.randint(0, 1) if x.shape[3] > 1 else 0 :: r.randint(1, 2)]
    order = [0, 1, 2, 3]
    r.shuffle(order)
    return x.permute(order)


def test_functions(kernel: Any) -> None:
    torch.manual_seed(0)
    x = torch.cat(
        [10 * torch.randn(1000), torch.linspace(-1, 1, 501), torch.tensor([0.0, -0.0, 100.0, -100.0, math.nan])]
    )
    x = torch.cat([x, torch.tensor([math.inf, -math.inf])])
    for function, (wanted, (a, b), near) in FUNCTIONS.items():
        out = torch.empty_like(x)
        kernel.run("unary", Unary(len(x), function, x.data_ptr(), out.data_ptr(), a, b))
        expected = wanted(x)
        if function in (Function.GELU, Function.GELU_TANH):  # torch makes NaN of infinity, or does not, by its build
            out, expected = out[:-2], expected[:-2]
        ends = torch.isnan(expected) | torch.isinf(expected)
        assert torch.equal(out[ends].nan_to_num(7.0), expected[ends].nan_to_num(7.0)), function
        far = (out - expected).abs() / expected.abs().clamp(min=1)
        assert far[~ends].max() <= near, (function, far[~ends].max())


def test_copies(kernel: Any) -> None:
    for number in range(CASES):
        r = random.Random(number)
        torch.manual_seed(number)
        x = drawn(r)
        x = (100 * x).byte() if r.random() < 0.3 else x
        norm = (torch.randn(x.shape[1]), 0.5 + torch.rand(x.shape[1])) if r.random() < 0.3 else None
        wide = torch.full((*x.shape[:3], 2 * x.shape[3]), 5.0)
        out, rest = wide[..., ::2], wide[..., 1::2]
        job = Copying(
            **sizes(x), **strides("x", x), **strides("out", out), bytes=int(x.dtype == torch.uint8), x=x.data_ptr()
        )
        job.out = out.data_ptr()
        expected = x / 255 if x.dtype == torch.uint8 else x
        if norm is not None:
            job.mean, job.std = norm[0].data_ptr(), norm[1].data_ptr()
            expected = (expected - norm[0].view(-1, 1, 1)) / norm[1].view(-1, 1, 1)
        kernel.run("copy", job)
        assert torch.equal(out, expected), number
        assert rest.eq(5).all()
        job.x, job.mean, job.value = None, None, 2.5
        kernel.run("copy", job)
        assert out.eq(2.5).all()
        assert rest.eq(5).all()


@pytest.mark.parametrize("pair", PAIRS)
def test_pairs(kernel: Any, pair: Pair) -> None:
    for number in range(CASES):
        r = random.Random(number)
        torch.manual_seed(number)
        x = drawn(r)
        y = torch.randn([size if r.random() < 0.5 else 1 for size in x.shape]).expand(x.shape)
        out = torch.empty(x.shape)
        job = Binary(**sizes(x), **strides("x", x), **strides("y", y), function=pair, x=x.data_ptr(), y=y.data_ptr())
        job.out = out.data_ptr()
        kernel.run("binary", job)
        assert torch.equal(out, PAIRS[pair](x, y)), number


@pytest.mark.parametrize("logarithm", [False, True])
def test_softmax(kernel: Any, logarithm: bool) -> None:
    for number in range(CASES):
        r = random.Random(number)
        torch.manual_seed(number)
        x = r.choice([1, 10, 100]) * torch.randn(r.randint(1, 5), r.choice([1, 2, 10, 1000]), r.choice([1, 1, 5, 33]))
        x[0, 0, 0] = math.nan if number == 1 else x[0, 0, 0]
        out = torch.empty_like(x)
        kernel.run("softmax", Softmax(*x.shape, logarithm, x.data_ptr(), out.data_ptr()))
        expected = (F.log_softmax if logarithm else F.softmax)(x.double(), 1).float()
        torch.testing.assert_close(out, expected, rtol=1e-6, atol=4e-6 if logarithm else 1e-7, equal_nan=True)


def test_sums_and_maxima_over_dimensions(kernel: Any) -> None:
    for number in range(CASES):
        r = random.Random(number)
        torch.manual_seed(number)
        x = torch.randn(r.randint(1, 3), r.randint(1, 5), r.randint(1, 9), r.randint(1, 9), r.randint(1, 5), 2)
        order = [1, 2, 3, 4, 5]
        r.shuffle(order)
        x = x.permute([0, *order])
        out = torch.empty(x.shape[:3])
        job = Reduction(*x.shape, *x.stride(), 0, x.data_ptr(), out.data_ptr(), 0.5)
        kernel.run("reduce", job)
        torch.testing.assert_close(out, x.double().sum((3, 4, 5)).float() * 0.5, rtol=1e-6, atol=1e-6)
        x[0, 0, 0, 0, 0] = math.nan if number % 2 else -math.inf
        job.maximum = 1
        kernel.run("reduce", job)
        assert torch.equal(out.nan_to_num(1e9), x.amax((3, 4, 5)).nan_to_num(1e9)), number


def test_zeros_around_channels(kernel: Any) -> None:
    for number in range(CASES):
        r = random.Random(number)
        first, inner, behind = (r.randint(0, 40) for _ in range(3))
        out = torch.ones(r.randint(1, 30), first + inner + behind + 1)
        expected = torch.zeros_like(out)
        expected[:, first : first + inner] = 1
        kernel.run("pad", Padding(*out.shape, first, inner, out.data_ptr()))
        assert torch.equal(out, expected), number
