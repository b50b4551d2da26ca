r"""The sign function and its surrogate gradients.

Every function here returns exactly -1 or +1 (sign(0) = sign(-0.0) = +1) and differs from the others only in its
gradient. NaN propagates: a network that has diverged shows it in its loss instead of hiding it behind a +-1.
"""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from bnn_lightning.functional import native

_aten = torch.ops.aten


def sign(x: Tensor) -> Tensor:
    r"""Return -1 where `x < 0`, +1 where `x >= 0` (so for -0.0 as well) and NaN where `x` is NaN. No gradient.

    Args:
        x: Any shape, any floating dtype.

    Returns:
        Tensor of the shape, dtype and memory format of `x`.

    Example:
        >>> sign(torch.tensor([-2.0, -0.0, 0.0, 1e-45, -1e-45, float("nan")]))
        tensor([-1.,  1.,  1.,  1., -1., nan])
    """
    if torch.compiler.is_compiling():
        # Compilers fuse anyway; and torch 2.11 gives an autograd function that ends in place a gradient of zero.
        return F.hardtanh(x.detach().floor(), -1.0, 0.0) * 2 + 1
    x = x.detach()
    signs = native.sign(x)
    return _sign_of_floor_(x.floor()) if signs is None else signs


def _sign_of_floor_(floor: Tensor) -> Tensor:
    # floor, then three passes in place: on a CPU faster than torch.where(x >= 0, 1.0, -1.0),
    # and the only form of that speed that lets NaN through (torch.sign, heaviside and comparisons all lose it).
    return F.hardtanh_(floor, -1.0, 0.0).mul_(2).add_(1)


def round_down(bias: Tensor, dtype: torch.dtype) -> Tensor:
    r"""Convert to `dtype`, towards minus infinity where it is narrower; the gradient is the identity.

    For x of that dtype, `x + round_down(bias) >= 0` where and only where `x + bias >= 0`: a shift before a sign needs
    no more precision than x has.

    Args:
        bias: Any shape.
        dtype: A floating dtype.

    Returns:
        Tensor of the shape of `bias`.

    Example:
        >>> round_down(torch.tensor([0.3, -0.3, 0.25]), torch.bfloat16)
        tensor([ 0.2988, -0.3008,  0.2500], dtype=torch.bfloat16)
    """
    nearest = bias.to(dtype)
    if torch.finfo(dtype).eps <= torch.finfo(bias.dtype).eps:
        return nearest
    with torch.no_grad():
        below = torch.nextafter(nearest, torch.full_like(nearest, -math.inf))
        step = torch.where(nearest > bias, below - nearest, 0.0)
    return nearest + step


class _SignSTE(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, clip: float) -> tuple[Tensor, Tensor]:
        # One byte an element is kept for backward instead of the four of `x`.
        if torch.compiler.is_compiling():
            return sign(x), x.abs() <= clip
        both = native.sign_ste(x, clip)
        if both is not None:
            return both
        # A comparison in place is vectorized, one into a bool tensor is not; and its memory serves once more.
        buffer = x.abs().le_(clip)
        inside = buffer.to(torch.int8)
        return _sign_of_floor_(buffer.copy_(x).floor_()), inside

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        result = native.ste_gradient(grad, inside)
        # Faster on a CPU than a product of two dtypes; in a tensor like `grad`, which `vmap` may have batched.
        return torch.empty_like(grad).copy_(inside).mul_(grad) if result is None else result, None


class _SignIdentity(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return sign(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class _Sign(torch.autograd.Function):
    """The sign of the first argument; a subclass has the backward pass, for which all arguments are kept."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *options: Tensor | float) -> Tensor:
        return sign(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*[value for value in inputs if isinstance(value, Tensor)])
        ctx.numbers = [value for value in inputs if not isinstance(value, Tensor)]


class _ApproxSign(_Sign):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        result = native.approx_gradient(grad, x)
        return grad * (2 - 2 * x.abs()).clamp(min=0) if result is None else result


class _SwishSign(_Sign):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        # beta (2 - bx tanh(bx/2)) / (1 + cosh(bx)), written with sech^2(bx/2) = 2 / (1 + cosh(bx)): no overflow.
        (beta,) = ctx.numbers
        half = (beta / 2) * x
        tanh = torch.tanh(half)
        return grad * (beta * (1 - half * tanh) * (1 - tanh * tanh)), None


class _ReSTE(_Sign):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, power = ctx.saved_tensors
        clip, limit = ctx.numbers
        magnitude = x.abs()
        slope = magnitude.clamp(min=limit) ** ((1 - power) / power) / power
        return grad * torch.where(magnitude > clip, 0.0, slope), None, None, None


class _SignEDE(_Sign):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, t = ctx.saved_tensors
        result = native.ede_gradient(grad, x, t)
        if result is not None:
            return result, None
        t = t.to(x.dtype)
        # k t = max(1/t, 1) t = max(1, t), and 1 - tanh^2(z) = 4 s (1 - s) with s = sigmoid(-2|z|), which is faster than
        # tanh and precise for large |z|, too; sigmoid_backward(g, s) = g s (1 - s) in one pass. In place where that is
        # possible: on a CPU a new large tensor costs more than the arithmetic that fills it.
        return _aten.sigmoid_backward(grad, x.abs().mul_(-2 * t).sigmoid_()).mul_(4 * t.clamp(min=1.0)), None


class _TemperatureSign(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, temperature: Tensor, threshold: float, clip: float | None) -> Tensor:
        # Chosen on the device: to ask for the temperature would cost a host synchronization a layer.
        ramp = temperature > threshold
        if torch.compiler.is_compiling():
            return torch.where(ramp, (x / temperature.clamp(min=threshold)).clamp(-1.0, 1.0), sign(x))
        # One new tensor: a large one costs a CPU more than arithmetic does. Below the threshold, x over the least
        # normal number, times `steep`, is 0 or larger than 2 in magnitude; plus 1, it is clamped to a sign.
        limits, dtype = torch.finfo(x.dtype), torch.promote_types(x.dtype, temperature.dtype)
        wide, steep = temperature.to(dtype), torch.where(ramp, 1.0, 4 / limits.eps).to(dtype)
        return (x / torch.where(ramp, wide, limits.tiny)).mul_(steep).add_(~ramp).clamp_(-1.0, 1.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float, float | None], output: Tensor) -> None:
        ctx.clip = inputs[3]
        if ctx.clip is not None:
            ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        if ctx.clip is not None:
            grad = grad.masked_fill(ctx.saved_tensors[0].abs() > ctx.clip, 0.0)
        return grad, None, None, None


def sign_ste(x: Tensor, clip: float = 1.0) -> Tensor:
    r"""Binarize with the clipped straight-through estimator.

    Value `sign(x)`; gradient 1 where `|x| <= clip`, else 0. `clip=inf` is the plain identity.

    Args:
        x: Any shape.
        clip: Half-width of the support of the gradient (BNext takes 1.5).

    Returns:
        Tensor like `x`, exactly -1 or +1.

    Example:
        >>> x = torch.tensor([-2.0, -0.5, 0.0, 1.0], requires_grad=True)
        >>> sign_ste(x).sum().backward()
        >>> x.grad
        tensor([0., 1., 1., 1.])

    References:
        Hubara et al., Binarized Neural Networks, NeurIPS 2016, equation 4.
    """
    return sign_identity(x) if clip == math.inf else cast(Tensor, _SignSTE.apply(x, clip)[0])


def sign_identity(x: Tensor) -> Tensor:
    r"""Binarize with the identity as gradient.

    Value `sign(x)`; gradient 1 everywhere.

    Example:
        >>> x = torch.tensor([-2.0, 3.0], requires_grad=True)
        >>> sign_identity(x).sum().backward()
        >>> x.grad
        tensor([1., 1.])
    """
    return cast(Tensor, _SignIdentity.apply(x))


def approx_sign(x: Tensor) -> Tensor:
    r"""Binarize with the derivative of a piecewise quadratic (Bi-Real Net).

    Value `sign(x)`; gradient `max(2 - 2|x|, 0)`.

    Example:
        >>> x = torch.tensor([-2.0, -0.5, 0.0, 0.75], requires_grad=True)
        >>> approx_sign(x).sum().backward()
        >>> x.grad
        tensor([0.0000, 1.0000, 2.0000, 0.5000])

    References:
        Liu et al., Bi-Real Net, ECCV 2018: ApproxSign.
    """
    return cast(Tensor, _ApproxSign.apply(x))


def swish_sign(x: Tensor, beta: float = 5.0) -> Tensor:
    r"""Binarize with the derivative of SignSwish.

    Value `sign(x)`; gradient `beta (2 - beta x tanh(beta x / 2)) / (1 + cosh(beta x))`.

    Args:
        x: Any shape.
        beta: Sharpness; the gradient at 0 is `beta`.

    Example:
        >>> x = torch.tensor([0.0, 1.0], requires_grad=True)
        >>> swish_sign(x).sum().backward()
        >>> x.grad
        tensor([ 5.0000, -0.1950])

    References:
        Darabi et al., BNN+, 2018, equation 4.
    """
    return cast(Tensor, _SwishSign.apply(x, beta))


def reste(x: Tensor, power: Tensor | float = 3.0, clip: float = 1.5, limit: float = 0.1) -> Tensor:
    r"""Binarize with the derivative of a power function, the rectified straight-through estimator (ReSTE).

    Value `sign(x)`; gradient `|x|^((1 - o) / o) / o` with `o = power`, where `|x|` is taken as `limit` below it (the
    power function is infinitely steep at 0) and the gradient is 0 where `|x| > clip`. With `power=1` it is the
    clipped identity.

    Args:
        x: Any shape.
        power: `o >= 1`, a number or a 0-dimensional tensor; the paper raises it from 1 to 3 in the course of training.
        clip: Half-width of the support of the gradient.
        limit: Magnitude below which the gradient is constant.

    Example:
        >>> x = torch.tensor([-2.0, 0.0, 1.0], requires_grad=True)
        >>> reste(x, power=2.0).sum().backward()
        >>> x.grad
        tensor([0.0000, 1.5811, 0.5000])

    References:
        Wu et al., Estimator Meets Equilibrium Perspective, ICCV 2023, equations 8 and 9.
    """
    if not isinstance(power, Tensor):
        power = torch.tensor(power, dtype=x.dtype, device=x.device)
    return cast(Tensor, _ReSTE.apply(x, power, clip, limit))


def sign_ede(x: Tensor, t: Tensor | float) -> Tensor:
    r"""Binarize with the error decay estimator (EDE) of IR-Net.

    Value `sign(x)`; gradient `k t (1 - tanh^2(t x))` with `k = max(1 / t, 1)`: close to the identity while t is small,
    a peak of height t and width 1/t at the end.

    Args:
        x: Any shape.
        t: Sharpness, a number or a 0-dimensional tensor (which costs no host synchronization).

    Example:
        >>> x = torch.tensor([0.0, 1.0], requires_grad=True)
        >>> sign_ede(x, 2.0).sum().backward()
        >>> x.grad
        tensor([2.0000, 0.1413])

    References:
        Qin et al., IR-Net, CVPR 2020, equations 8 and 9.
    """
    if not isinstance(t, Tensor):
        t = torch.tensor(t, dtype=x.dtype, device=x.device)
    return cast(Tensor, _SignEDE.apply(x, t))


def temperature_sign(x: Tensor, temperature: Tensor | float, threshold: float = 1e-7, clip: float = math.inf) -> Tensor:
    r"""Binarize progressively: a ramp that becomes steeper as its temperature T falls, and at last the sign itself.

    Value `clip(x / T, -1, 1)` while `T > threshold`, and exactly `sign(x)` from there down; gradient 1 where
    `|x| <= clip`, else 0, at every temperature.

    Args:
        x: Any shape; BNext's latent weights.
        temperature: T, a number or a 0-dimensional tensor (which costs no host synchronization).
        threshold: Positive; the temperature at which the ramp becomes the sign.
        clip: Half-width of the support of the gradient; `inf` is the plain identity of BNext.

    Example:
        >>> x = torch.tensor([-2.0, -0.3, 0.0, 3e-4], requires_grad=True)
        >>> temperature_sign(x, 1e-3).detach()
        tensor([-1.0000, -1.0000,  0.0000,  0.3000])
        >>> temperature_sign(x, 1e-8, clip=1.5).sum().backward()
        >>> x.grad
        tensor([0., 1., 1., 1.])

    References:
        Guo et al., BNext, 2022, progressive weight binarization; Guo et al., BoolNet, 2021.
    """
    if not isinstance(temperature, Tensor):
        temperature = torch.tensor(temperature, dtype=x.dtype, device=x.device)
    return cast(Tensor, _TemperatureSign.apply(x, temperature, threshold, None if clip == math.inf else clip))
