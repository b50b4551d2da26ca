"""Quantisation to a few bits, with straight-through gradients."""

from typing import Any, cast

import torch
from torch import Tensor

# Added to every range, so that a constant row has one.
EPS = 1e-8


class _MinMaxQuantize(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, bits: int, row_dims: int, clip: float) -> tuple[Tensor, Tensor]:
        levels = 2**bits - 1
        dims = tuple(range(row_dims, x.dim()))
        # In half precision 1e-8 is 0, and a constant row would become NaN.
        clipped = x.clamp(-clip, clip).to(torch.promote_types(x.dtype, torch.float32))
        low, high = clipped.amin(dims, keepdim=True), clipped.amax(dims, keepdim=True)
        extent = high - low + EPS
        rounded = ((clipped - low) / extent * levels).round() / levels * extent + low
        return rounded.to(x.dtype), x.abs() > clip

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, int, float], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        (outside,) = ctx.saved_tensors
        return grad.masked_fill(outside, 0.0), None, None, None


def minmax_quantize(x: Tensor, bits: int, *, row_dims: int = 1, clip: float) -> Tensor:
    r"""Round to 2^bits equally spaced values between the minimum and the maximum of each row.

    With x clipped to [-clip, clip], lo and hi its extremes in a row, `e = hi - lo + 1e-8` and `n = 2^bits - 1`: value
    `round((x - lo) / e * n) / n * e + lo`; gradient 1 where `|x| <= clip`, else 0.

    Args:
        x: Any shape.
        bits: Of a value.
        row_dims: The first so many dimensions number the rows, the others are within one.
        clip: Bound of the values.

    Example:
        >>> minmax_quantize(torch.tensor([[0.0, 0.4, 0.6, 1.0]]), 1, clip=25.0)
        tensor([[0., 0., 1., 1.]])

    References:
        Guo et al., BNext, 2022: the quantiser of its 8- and 4-bit layers.
    """
    return cast(Tensor, _MinMaxQuantize.apply(x, bits, row_dims, clip)[0])
