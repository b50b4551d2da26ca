"""Values that are other values in another shape: where their elements lie in the memory of what they were made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from bnn_lightning.deploy.ir.graph import Node
from bnn_lightning.deploy.ir.types import Images, Size, Type


@dataclass(frozen=True)
class View:
    """A value as elements of another one.

    Attributes:
        root: Number of the value whose memory it is.
        offset: Elements before its first one.
        sizes: Sizes of its dimensions.
        strides: Elements from one place of a dimension to the next; 0 where it has one place.
    """

    root: int
    offset: int
    sizes: tuple[Size, ...]
    strides: tuple[int, ...]


def memory_strides(of: Type) -> tuple[int, ...] | None:
    """Return the strides of a value in memory: dense, maps with channels side by side; see `dense_strides`.

    Example:
        >>> memory_strides(Type((Images(1), 3, 4, 5)))
        (60, 1, 15, 3)
    """
    rank = len(of.shape)
    return dense_strides(of.shape, (0, 2, 3, 1) if rank == 4 and of.dtype == "f32" else range(rank))


def dense_strides(sizes: Sequence[Size], order: Sequence[int]) -> tuple[int, ...] | None:
    """Return the strides of dimensions that lie densely in an order, the outermost first; 0 where the size is 1.

    None where a stride depends on the number of images: where these are no outermost dimension.
    """
    strides, step = [0] * len(sizes), 1
    for place, dim in reversed(list(enumerate(order))):
        size = sizes[dim]
        strides[dim] = 0 if size == 1 else step
        if isinstance(size, Images) and any(sizes[other] != 1 for other in order[:place]):
            return None
        step *= size.each if isinstance(size, Images) else size
    return tuple(strides)


def views_of(nodes: Sequence[Node], types: Sequence[Type]) -> list[View | None]:
    """Return the views of all values; that of a value which is no view of another one is of itself.

    None is a value whose memory has strides that depend on the number of images.
    """
    views: list[View | None] = []
    for number, of in enumerate(types):
        node = nodes[number - 1] if number else None
        inner = views[node.values()[0]] if node is not None and len(node.values()) == 1 else None
        found = None if node is None or inner is None else _view(node, inner, of)
        own = memory_strides(of)
        views.append(found or (None if own is None else View(number, 0, of.shape, own)))
    return views


def is_whole(view: View, of: Type, root: Type) -> bool:
    """Whether a value lies in memory as its root does."""
    return view.offset == 0 and view.strides == memory_strides(of) and of.elements == root.elements


def _view(node: Node, x: View, of: Type) -> View | None:
    """Return the result of a node as a view of what its input is a view of."""
    dims = list(zip(x.sizes, x.strides, strict=True))
    match node.operation:
        case "transpose":
            a, b = node["dim0"], node["dim1"]
            dims[a], dims[b] = dims[b], dims[a]
        case "permute":
            dims = [dims[dim] for dim in node["dims"]]
        case "unsqueeze":
            dims.insert(node["dim"] % (len(dims) + 1), (1, 0))
        case "select" | "slice":
            return _selected(node, x, of)
        case "expand":
            dims = [(1, 0)] * (len(of.shape) - len(dims)) + dims
            dims = [(size, step if size == before else 0) for size, (before, step) in zip(of.shape, dims, strict=True)]
        case "reshape" | "squeeze":
            return _reshaped(x, of)
        case _:
            return None
    return View(x.root, x.offset, tuple(size for size, _ in dims), tuple(stride for _, stride in dims))


def _selected(node: Node, x: View, of: Type) -> View | None:
    """Return one index of a dimension, or a range."""
    place = node["dim"] % len(x.sizes)
    size, stride = x.sizes[place], x.strides[place]
    if isinstance(size, Images):  # all of them
        return View(x.root, x.offset, of.shape, x.strides)
    if node.operation == "select":
        strides = x.strides[:place] + x.strides[place + 1 :]
        return View(x.root, x.offset + node["index"] % size * stride, of.shape, strides)
    start, _, step = slice(node["start"], node["end"], node["step"]).indices(size)
    strides = (*x.strides[:place], stride * step if of.shape[place] != 1 else 0, *x.strides[place + 1 :])
    return View(x.root, x.offset + start * stride, of.shape, strides)


def _reshaped(x: View, of: Type) -> View | None:
    """Return a view in another shape, if dimensions are only split, and dense ones joined."""
    given = [(size, stride) for size, stride in zip(x.sizes, x.strides, strict=True) if size != 1]
    wanted, strides = list(of.shape), list[int]()
    while wanted:
        if wanted[0] == 1:
            strides.append(0)
            del wanted[0]
            continue
        old, new = _same_places(given, wanted)
        dense = all(a[1] == b[1] * (b[0] if isinstance(b[0], int) else 0) for a, b in pairwise(given[:old]))
        if not old or not dense:
            return None
        step = given[old - 1][1]
        for at in range(new):
            inner = prod(size for size in wanted[at + 1 : new] if isinstance(size, int))
            strides.append(0 if wanted[at] == 1 else step * inner)
        del given[:old], wanted[:new]
    return None if given else View(x.root, x.offset, of.shape, tuple(strides))


def _same_places(given: Sequence[tuple[Size, int]], wanted: Sequence[Size]) -> tuple[int, int]:
    """Return how many of the first dimensions of both have as many places together, as few as can be; 0 for none."""
    if given and (isinstance(given[0][0], Images) or isinstance(wanted[0], Images)):
        return _same_images([size for size, _ in given], wanted)
    old, new, before, behind = 0, 0, 1, 1
    while not old or before != behind:
        of_old = before <= behind
        place, sizes = (old, [size for size, _ in given]) if of_old else (new, list(wanted))
        size = sizes[place] if place < len(sizes) else Images(1)
        if isinstance(size, Images):
            return 0, 0
        if of_old:
            old, before = old + 1, before * size
        else:
            new, behind = new + 1, behind * size
    return old, new


def _same_images(given: Sequence[Size], wanted: Sequence[Size]) -> tuple[int, int]:
    """Return how many of the first dimensions have as many places together, where both begin with the images.

    Example:
        >>> _same_images([Images(6), 4], [Images(1), 2, 3, 4])
        (1, 3)
    """
    first, second = given[0], wanted[0]
    if not isinstance(first, Images) or not isinstance(second, Images):
        return 0, 0
    old, new, before, behind = 1, 1, first.each, second.each
    while before != behind:
        sizes, place = (given, old) if before < behind else (wanted, new)
        size = sizes[place] if place < len(sizes) else Images(1)
        if isinstance(size, Images):
            return 0, 0
        if before < behind:
            old, before = old + 1, before * size
        else:
            new, behind = new + 1, behind * size
    return old, new
