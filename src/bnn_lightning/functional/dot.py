"""Binary dot products whose saved activations take one byte instead of four."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

_Packed = Tensor | tuple[Tensor, torch.dtype]


def _unpack(packed: _Packed) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    signs, dtype = packed
    return signs.to(dtype)


def _hooks_allowed() -> bool:
    # torch.func and torch.compile refuse saved-tensor hooks; a compiler recomputes signs by itself.
    return not torch.compiler.is_compiling() and torch._C._autograd._saved_tensors_hooks_is_enabled()  # type: ignore[attr-defined]


def compact_signs(shape: torch.Size) -> AbstractContextManager[object]:
    """Return a context in which autograd keeps tensors of `shape` as int8.

    For operations on tensors of that shape whose elements are -1 and +1 only: restored exactly, first and second
    derivatives included. (A NaN, which is no sign, would come back as a number; the loss has it all the same.)

    Args:
        shape: Shape of the sign tensor that is saved.

    Example:
        >>> import torch.nn.functional as F
        >>> signs = torch.tensor([1.0, -1.0])
        >>> weight = torch.ones(3, 2, requires_grad=True)
        >>> with compact_signs(signs.shape):
        ...     y = F.linear(signs, weight)
        >>> y.sum().backward()
        >>> weight.grad[0]
        tensor([ 1., -1.])
    """
    if not torch.is_grad_enabled() or not _hooks_allowed():
        return nullcontext()

    def pack(saved: Tensor) -> _Packed:
        return (saved.to(torch.int8), saved.dtype) if saved.shape == shape else saved

    return saved_tensors_hooks(pack, _unpack)


def binary_dot(dot: Callable[..., Tensor], x: Tensor, weight: Tensor, *, x_is_binary: bool) -> Tensor:
    """Call `dot(x, weight)`, saving `x` as int8 for the backward pass where it holds signs only.

    Args:
        dot: A convolution or matrix product of two tensors.
        x: Activations, (N, C, ...).
        weight: Weights of any shape; when it coincides with that of `x`, nothing is compacted.
        x_is_binary: Whether every element of `x` is -1 or +1.

    Returns:
        `dot(x, weight)`.
    """
    # Asked first: comparing shapes would bind an exported graph to batch sizes that are no number of channels.
    if not x_is_binary or torch.compiler.is_compiling() or x.shape == weight.shape:
        return dot(x, weight)
    with compact_signs(x.shape):
        return dot(x, weight)
