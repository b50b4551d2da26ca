"""Tensors that backward computes again, in a pass or two, instead of keeping them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


@dataclass(frozen=True)
class Recomputable:
    """A tensor, and how to compute it again from others that are kept anyway.

    What is computed from it by `call` keeps the recipe in its place, for first and second derivatives.

    Args:
        value: The tensor.
        again: Computes the same numbers again.

    Example:
        >>> x = torch.tensor([1.0, -2.0], requires_grad=True)
        >>> doubled = recomputable(torch.mul, x, torch.tensor(2.0))
        >>> y = call(torch.square, doubled)
        >>> y.sum().backward()
        >>> x.grad
        tensor([  8., -16.])
    """

    value: Tensor
    again: Callable[[], Tensor]


def recomputable(
    function: Callable[..., Tensor], *inputs: Tensor | Recomputable, value: Tensor | None = None
) -> Recomputable:
    """Compute `function(*inputs)`, which is cheap enough to be computed again in backward.

    Args:
        function: Differentiable, without random numbers, and the same under autocast and without.
        *inputs: Its arguments; tensors among them are kept, which costs memory unless they are kept anyway.
        value: Result of `function`, if it is known.
    """
    value = call(function, *inputs) if value is None else value
    kept = [x.again if isinstance(x, Recomputable) else x.detach for x in inputs]
    if not all(isinstance(x, Recomputable | Tensor) for x in inputs):
        return Recomputable(value, lambda: value)  # a symbolic trace
    return Recomputable(value, lambda: function(*(x() for x in kept)))


def call(function: Callable[..., Tensor], *inputs: Tensor | Recomputable) -> Tensor:
    """Call a function or module; where autograd keeps a `Recomputable` input for backward, it keeps its recipe."""
    with _recipes([x for x in inputs if isinstance(x, Recomputable)]):
        return function(*(x.value if isinstance(x, Recomputable) else x for x in inputs))


@contextmanager
def _recipes(inputs: list[Recomputable]) -> Iterator[None]:
    # Compilers decide by themselves what to compute again, as does activation checkpointing, whose own hooks are there.
    if not inputs or not torch.is_grad_enabled() or torch.compiler.is_compiling() or _hooks_are_taken():
        yield
        return

    def pack(saved: Tensor) -> Tensor | Callable[[], Tensor]:
        return next((x.again for x in inputs if _same(saved, x.value)), saved)

    def unpack(packed: Tensor | Callable[[], Tensor]) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        with torch.no_grad():
            return packed()

    try:
        with saved_tensors_hooks(pack, unpack):
            yield
    finally:
        inputs.clear()  # the graph keeps `pack`, which must not keep the values


def _same(a: Tensor, b: Tensor) -> bool:
    # `Tensor.is_set_to`, which the meta device does not have.
    storage = a.untyped_storage()._cdata == b.untyped_storage()._cdata
    return storage and (a.shape, a.stride(), a.storage_offset()) == (b.shape, b.stride(), b.storage_offset())


def _hooks_are_taken() -> bool:
    autograd = torch._C._autograd
    allowed = autograd._saved_tensors_hooks_is_enabled()  # type: ignore[attr-defined]
    return not allowed or autograd._top_saved_tensors_default_hooks(True) is not None
