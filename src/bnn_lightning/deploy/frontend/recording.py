"""The operations that a network runs, in order, to compare two ways of computing it without comparing values."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

_Memory = tuple[int, int]


@dataclass(frozen=True)
class Result:
    """A tensor that depends on the images.

    Attributes:
        call: Index of the call that computed it; -1 for the images.
        output: Index among the outputs of that call.
        writes: Indices of the calls that have since written into its memory under another name.
    """

    call: int
    output: int = 0
    writes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Call:
    """An operation that reads what depends on the images.

    Attributes:
        name: Operation and overload. An operation in place on a result has the name of the one that is not.
        arguments: Results by `Result`, tensors that do not depend on the images as they are, plain values as text.
        outputs: Type, shape and layout of tensors; plain values as text.
    """

    name: str
    arguments: list[Any]
    outputs: list[Any]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records calls while it is entered; tensors are told apart by identity, their memory by the calls that made it."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self._known: Any = WeakTensorKeyDictionary()  # Result (without `writes`) and memory of each tensor
        self._writes: dict[_Memory, list[int]] = {}
        self._known[images] = Result(-1), (-1, 0)

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = (args, kwargs or {})
        name, tensors = func.name(), [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
        arguments = [self._named(leaf) for leaf in tree_leaves(given)]
        out = func(*args, **given[1])
        if not any(tensor in self._known for tensor in tensors):
            return out
        number = len(self.calls)
        written = [tensor for tensor in _written(func, *given) if isinstance(tensor, Tensor)]
        if len(written) == 1 and written[0] is out and out in self._known:
            name = _without_underscore(name)
        for tensor in written:
            memory = self._known[tensor][1] if tensor in self._known else (number, -1)
            self._writes.setdefault(memory, []).append(number)
            self._known[tensor] = Result(number), memory
        outputs = tree_leaves(out)
        for place, output in enumerate(outputs):
            if isinstance(output, Tensor) and not any(output is tensor for tensor in written):
                self._known[output] = Result(number, place), self._memory(output, tensors, (number, place))
        self.calls.append(Call(name, arguments, [_meta(output) for output in outputs]))
        return out

    def named(self, tree: Any) -> list[Any]:
        """Return the leaves of a tree as a call's arguments are kept."""
        return [self._named(leaf) for leaf in tree_leaves(tree)]

    def _named(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return repr(leaf)
        if leaf not in self._known:
            return leaf
        result, memory = self._known[leaf]
        later = tuple(call for call in self._writes.get(memory, []) if call > result.call)
        return Result(result.call, result.output, later)

    def _memory(self, output: Tensor, tensors: list[Tensor], own: _Memory) -> _Memory:
        """Return whose memory a result lies in: an argument's that it is a view of, or its own."""
        for tensor in tensors:
            if tensor in self._known and tensor.untyped_storage()._cdata == output.untyped_storage()._cdata:
                return self._known[tensor][1]  # type: ignore[no-any-return]
        return own


def first_difference(found: Callable[[Tensor], Any], wanted: Callable[[Tensor], Any], images: Tensor) -> str:
    """Return where two functions do not run the same operations on the same tensors, or an empty text.

    Equal in this sense, they give the same bits for these images, whatever these hold. A sum in place (`y += x`) is a
    sum, unless its memory is read under another name afterwards.

    Args:
        found: Called with images.
        wanted: The same.
        images: Shape (N, C, H, W).

    Example:
        >>> images = torch.rand(2, 3, 4, 4)
        >>> first_difference(lambda x: (x * 2).add_(1), lambda x: x * 2 + 1, images)
        ''
        >>> first_difference(lambda x: x + x, lambda x: 2 * x, images)
        'call 1 is aten::add.Tensor instead of aten::mul.Tensor'
    """
    (calls, output), (wanted_calls, wanted_output) = _record(found, images), _record(wanted, images)
    for number, (call, other) in enumerate(zip_longest(calls, wanted_calls), start=1):
        names = [item.name if item is not None else "missing" for item in (call, other)]
        if names[0] != names[1]:
            return f"call {number} is {names[0]} instead of {names[1]}"
        if not _same(call.arguments, other.arguments) or call.outputs != other.outputs:
            return f"call {number}, {names[0]}, has other arguments"
    return "" if _same(output, wanted_output) else "the output is another result"


def _record(function: Callable[[Tensor], Any], images: Tensor) -> tuple[list[Call], list[Any]]:
    images = images.clone()
    with torch.no_grad(), _Recorder(images) as recorder:
        output = function(images)
    return recorder.calls, recorder.named(output)


def _same(found: list[Any], wanted: list[Any]) -> bool:
    return len(found) == len(wanted) and all(_is(a, b) for a, b in zip(found, wanted, strict=True))


def _is(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b) and a == b
    # A constant that a forward makes anew at each call has the same bytes.
    return a is b or (_meta(a) == _meta(b) and torch.equal(a.nan_to_num(), b.nan_to_num()))


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return what an operation is given to write into."""
    written = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written += tree_leaves(args[place] if place < len(args) else kwargs.get(argument.name))
    return written


def _without_underscore(name: str) -> str:
    """Return the name of an operation that does not work in place.

    Example:
        >>> _without_underscore("aten::add_.Tensor"), _without_underscore("aten::__iand__.Tensor")
        ('aten::add.Tensor', 'aten::__iand__.Tensor')
    """
    name, dot, overload = name.partition(".")
    return (name if name.endswith("__") else name.removesuffix("_")) + dot + overload


def _meta(item: Any) -> Any:
    if not isinstance(item, Tensor):
        return repr(item)
    strides = tuple(stride for stride, size in zip(item.stride(), item.shape, strict=True) if size != 1)
    return item.dtype, item.device, tuple(item.shape), strides
