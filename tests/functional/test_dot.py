"""Saved signs take one byte and come back exactly, for first and second derivatives."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bnn_lightning.functional.dot import binary_dot
from bnn_lightning.functional.sign import sign


def _leaves() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = sign(torch.randn(2, 4, 5, 5, generator=generator)).requires_grad_()
    weight = sign(torch.randn(3, 4, 3, 3, generator=generator)).requires_grad_()
    return x, weight


def test_gradients_equal_those_of_the_plain_operation() -> None:
    x, weight = _leaves()
    upstream = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    plain = torch.autograd.grad(F.conv2d(x, weight), [x, weight], upstream)
    compact = torch.autograd.grad(binary_dot(F.conv2d, x, weight, x_is_binary=True), [x, weight], upstream)
    for got, expected in zip(compact, plain, strict=True):
        assert torch.equal(got, expected)


def test_second_derivatives_survive() -> None:
    def second(dot: object) -> list[Tensor]:
        x, weight = _leaves()
        (first,) = torch.autograd.grad(dot(x, weight).pow(3).sum(), [weight], create_graph=True)  # type: ignore[operator]
        return list(torch.autograd.grad(first.pow(2).sum(), [x, weight]))

    def compact(x: Tensor, weight: Tensor) -> Tensor:
        return binary_dot(F.conv2d, x, weight, x_is_binary=True)

    for got, expected in zip(second(compact), second(F.conv2d), strict=True):
        torch.testing.assert_close(got, expected)


def test_the_graph_holds_one_byte_for_a_sign() -> None:
    """Autograd holds an int8 tensor: reading the saved input makes a new float tensor each time."""
    x, weight = _leaves()
    node = binary_dot(F.conv2d, x, weight, x_is_binary=True).grad_fn
    assert node is not None
    first, second = node._saved_input, node._saved_input  # type: ignore[attr-defined]
    assert torch.equal(first, x)
    assert first.data_ptr() != x.data_ptr() != second.data_ptr()
    assert node._saved_weight.data_ptr() == weight.data_ptr()  # type: ignore[attr-defined]


def test_vmap_and_func_grad_work() -> None:
    x, weight = _leaves()

    def loss(weight: Tensor, image: Tensor) -> Tensor:
        return binary_dot(F.conv2d, image[None], weight, x_is_binary=True).pow(2).sum()

    each = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(weight.detach(), x.detach())
    whole = torch.autograd.grad(F.conv2d(x, weight).pow(2).sum(), weight)[0]
    torch.testing.assert_close(each.sum(0), whole)
