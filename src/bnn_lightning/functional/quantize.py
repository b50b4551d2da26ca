"""Quantization to a few bits, with straight-through gradients."""

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
        bits: Bits of a value.
        row_dims: The first so many dimensions number the rows, the others are within one.
        clip: Bound of the values.

    Example:
        >>> minmax_quantize(torch.tensor([[0.0, 0.4, 0.6, 1.0]]), 1, clip=25.0)
        tensor([[0., 0., 1., 1.]])

    References:
        Guo et al., BNext, 2022: the quantizer of its 8- and 4-bit layers.
    """
    return cast(Tensor, _MinMaxQuantize.apply(x, bits, row_dims, clip)[0])


class _DoReFa(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, levels: int) -> tuple[Tensor, Tensor]:
        # The mask is kept, as the gradient of torch's clamp at its bounds differs between versions.
        return (x.clamp(0.0, 1.0) * levels).round(), (x >= 0) & (x <= 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])
        ctx.levels = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return grad * inside * ctx.levels, None


def dorefa_activation(x: Tensor, bits: int) -> Tensor:
    r"""Quantize activations to whole numbers between 0 and `n = 2^bits - 1` (round half to even).

    Value `round(n clip(x, 0, 1))`, which stands for its n-th part; gradient n where `0 <= x <= 1`, else 0: that of the
    part is 1.

    Args:
        x: Any shape.
        bits: At least 1.

    Example:
        >>> x = torch.tensor([-1.0, 0.4, 0.6, 2.0], requires_grad=True)
        >>> dorefa_activation(x, 2)
        tensor([0., 1., 2., 3.], grad_fn=<_DoReFaBackward>)

    References:
        Zhou et al., DoReFa-Net, 2016, equations 5 (quantize_k) and 11.
    """
    return cast(Tensor, _DoReFa.apply(x, 2**bits - 1)[0])


def dorefa_weight(limited: Tensor, bits: int) -> Tensor:
    r"""Quantize weights to the odd numbers between -n and `n = 2^bits - 1` (round half to even, that is, up).

    Value `2 round(n (v / 2 + 1 / 2)) - n`, which stands for its n-th part; gradient n where `|v| <= 1`, else 0.

    Args:
        limited: `v = tanh(w) / max|tanh(w)|`, any shape; clipped to [-1, 1].
        bits: At least 1.

    Example:
        >>> dorefa_weight(torch.tensor([-1.0, -0.5, 0.0, 0.9]), 2)
        tensor([-3., -1.,  1.,  3.])

    References:
        Zhou et al., DoReFa-Net, 2016, equations 5 (quantize_k) and 9.
    """
    levels: int = 2**bits - 1
    return dorefa_activation(limited / 2 + 0.5, bits) * 2 - levels


class _Ternary(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, threshold: Tensor, clip: float) -> Tensor:
        # sign(x) where |x| > threshold: NaN, which no comparison holds for, goes through.
        return torch.where(x.abs() <= threshold, 0.0, torch.sign(x) + (x - x))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.clip = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return grad.masked_fill(x.abs() > ctx.clip, 0.0), None, None


def ternary_weight(weight: Tensor, threshold: Tensor | float, clip: float = 1.0) -> Tensor:
    r"""Quantize weights to -1, 0 and +1.

    Value `sign(w)` where `|w| > threshold`, else 0; gradient 1 where `|w| <= clip`, else 0.

    Args:
        weight: Any shape.
        threshold: Not negative; a number or a tensor that broadcasts.
        clip: Half-width of the support of the gradient.

    Example:
        >>> weight = torch.tensor([-2.0, -0.1, 0.2, 0.7], requires_grad=True)
        >>> values = ternary_weight(weight, 0.2)
        >>> values.sum().backward()
        >>> values.tolist(), weight.grad.tolist()
        ([-1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0])

    References:
        Li and Liu, Ternary Weight Networks, 2016, equation 3.
    """
    if not isinstance(threshold, Tensor):
        threshold = torch.tensor(threshold, dtype=weight.dtype, device=weight.device)
    return cast(Tensor, _Ternary.apply(weight, threshold, clip))


def ternary_threshold(weight: Tensor) -> Tensor:
    r"""Return `0.7 mean|w|` over the layer, the threshold of ternary weight networks, without gradient.

    Args:
        weight: Any shape.

    Returns:
        A 0-dimensional tensor.

    References:
        Li and Liu, Ternary Weight Networks, 2016: its approximate threshold.
    """
    return weight.detach().abs().mean() * 0.7
