"""PReLU, average over a map, concatenation: against torch, against the formulae, and the layouts of their gradients."""

import pytest
import torch
from torch import Tensor

from bnn_lightning.functional import concatenate, image_standardize, maxout, prelu, spatial_mean

SHAPES = [(4, 3), (4, 3, 5), (2, 3, 4, 5)]


def inputs(shape: tuple[int, ...], slopes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    x.flatten()[:2] = torch.tensor([0.0, -0.0])
    slope = torch.tensor([0.25, -1.5, 0.0], dtype=torch.float64)[:slopes].requires_grad_()
    return x.requires_grad_(), slope, torch.randn(shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("slopes", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_prelu_is_the_formula_with_its_gradients(shape: tuple[int, ...], slopes: int) -> None:
    x, slope, upstream = inputs(shape, slopes)
    broad = slope.view(1, -1, *[1] * (len(shape) - 2))
    expected = torch.where(x > 0, x, broad * x)
    assert torch.equal(prelu(x, slope), expected)
    got = torch.autograd.grad(prelu(x, slope), [x, slope], upstream)
    for gradient, reference in zip(got, torch.autograd.grad(expected, [x, slope], upstream), strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
def test_maxout_is_the_formula_with_its_gradients(shape: tuple[int, ...]) -> None:
    x, positive, upstream = inputs(shape)
    negative = torch.tensor([2.0, 0.0, -0.5], dtype=torch.float64, requires_grad=True)
    broad = [slope.view(1, -1, *[1] * (len(shape) - 2)) for slope in (positive, negative)]
    expected = broad[0] * x.relu() - broad[1] * (-x).relu()
    got = maxout(x, positive, negative)
    assert torch.equal(got, expected)
    leaves = [x, positive, negative]
    references = torch.autograd.grad(expected, leaves, upstream)
    for gradient, reference in zip(torch.autograd.grad(got, leaves, upstream), references, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-13, atol=1e-13)


def test_infinite_values_stay_so() -> None:
    x, slope = torch.tensor([[torch.inf], [-torch.inf]]), torch.ones(1)
    assert torch.equal(maxout(x, slope, slope), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_image_standardize_of_one_value_and_of_no_image(dtype: torch.dtype) -> None:
    assert image_standardize(torch.zeros(0, 3, 4, 4, dtype=dtype)).shape == (0, 3, 4, 4)
    x = torch.full((2, 3), 5.0, dtype=dtype, requires_grad=True)
    image_standardize(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.float(), torch.full((2, 3), 1e-5**-0.5), rtol=1e-2, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_image_standardize_is_the_formula_with_its_gradient_in_both_layouts(layout: torch.memory_format) -> None:
    x, _, upstream = inputs((2, 3, 4, 5))
    mean = x.mean((1, 2, 3), keepdim=True)
    variance = (x - mean).square().sum((1, 2, 3), keepdim=True) / 59
    expected = x / (variance + 1e-5).sqrt()
    leaf = x.detach().to(memory_format=layout).requires_grad_()
    got = image_standardize(leaf)
    assert got.is_contiguous(memory_format=layout)
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-13)
    (of_x,) = torch.autograd.grad(got, leaf, upstream)
    torch.testing.assert_close(of_x, torch.autograd.grad(expected, x, upstream)[0], rtol=1e-12, atol=1e-13)


def test_first_and_second_derivatives() -> None:
    x, slope, _ = inputs((2, 3, 2, 2))
    x = (x.detach() + 0.1 * x.detach().sign() + 1e-3).requires_grad_()  # away from the kink
    assert torch.autograd.gradcheck(prelu, (x, slope))
    assert torch.autograd.gradgradcheck(prelu, (x, slope))
    assert torch.autograd.gradcheck(spatial_mean, (x,))
    assert torch.autograd.gradgradcheck(spatial_mean, (x,))
    assert torch.autograd.gradcheck(maxout, (x, slope, slope.detach() - 0.5))
    assert torch.autograd.gradgradcheck(maxout, (x, slope, (slope.detach() - 0.5).requires_grad_()))
    assert torch.autograd.gradcheck(image_standardize, (x,))
    assert torch.autograd.gradgradcheck(image_standardize, (x,))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_concatenation_gives_dense_gradients(layout: torch.memory_format) -> None:
    parts = [torch.randn(2, c, 4, 5, dtype=torch.float64).to(memory_format=layout).requires_grad_() for c in (3, 1)]
    y = concatenate(parts)
    assert torch.equal(y, torch.cat(parts, 1))
    upstream = torch.randn_like(y)
    for part, grad in zip(parts, torch.autograd.grad(y, parts, upstream), strict=True):
        assert grad.is_contiguous(memory_format=layout)
        assert torch.equal(grad, upstream[:, 3:] if part.shape[1] == 1 else upstream[:, :3])
    assert torch.autograd.gradgradcheck(lambda *xs: concatenate(xs), parts)


def test_prelu_vmaps() -> None:
    x, slope, _ = inputs((2, 3, 4, 5))
    each = torch.vmap(torch.func.grad(lambda image: prelu(image[None], slope).pow(2).sum()))(x)
    whole = torch.autograd.grad(prelu(x, slope).pow(2).sum(), x)[0]
    torch.testing.assert_close(each, whole)
    for function in (image_standardize, lambda x: maxout(x, slope, -slope)):
        y, upstreams = function(x), torch.randn(3, *x.shape, dtype=x.dtype)
        (batched,) = torch.autograd.grad(y, x, upstreams, is_grads_batched=True, retain_graph=True)
        for got, upstream in zip(batched, upstreams, strict=True):
            torch.testing.assert_close(got, torch.autograd.grad(y, x, upstream, retain_graph=True)[0])
        each = torch.vmap(torch.func.grad(lambda image, f=function: f(image[None]).pow(2).sum()))(x)
        torch.testing.assert_close(each, torch.autograd.grad(function(x).pow(2).sum(), x)[0])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layout_and_dtype_stay(dtype: torch.dtype, layout: torch.memory_format) -> None:
    x = torch.randn(2, 3, 4, 5).to(dtype, memory_format=layout).requires_grad_()
    slope = torch.full((3,), 0.25, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = prelu(x, slope)
        mean = spatial_mean(x)
    assert y.dtype == mean.dtype == dtype
    assert y.is_contiguous(memory_format=layout)
    torch.testing.assert_close(mean, x.mean((2, 3), keepdim=True))
    # An addition of the two gradients, the broadcast one first, keeps the layout of the other.
    (of_mean,) = torch.autograd.grad(mean.sum(), x)
    assert of_mean.stride()[2:] == (0, 0)
    of_x, of_slope = torch.autograd.grad(y, [x, slope], torch.ones_like(y))
    assert (of_mean + of_x).is_contiguous(memory_format=layout)
    assert of_x.dtype == dtype
    assert of_slope.dtype == torch.float32


def test_compiled_they_are_the_same() -> None:
    def both(x: Tensor, slope: Tensor) -> Tensor:
        return concatenate([prelu(x, slope), x]) * spatial_mean(concatenate([x, x]))

    x, slope, _ = inputs((2, 3, 4, 5))
    expected = torch.autograd.grad(both(x, slope).sum(), [x, slope])
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    for got, reference in zip(torch.autograd.grad(compiled(x, slope).sum(), [x, slope]), expected, strict=True):
        torch.testing.assert_close(got, reference)
