"""Shapes of what moves elements: order, selection, padding, concatenation."""

import math
from collections.abc import Sequence

from bnn_lightning.deploy.ir.graph import Node
from bnn_lightning.deploy.ir.types import Images, Size, Type, fixed, need, need_floats, place_of, places_of


def reshape(node: Node, inputs: Sequence[Type]) -> Type:
    """Another shape of the same elements."""
    (x,) = inputs
    shape: list[int] = node["shape"]
    need(shape.count(-1) <= 1 and all(size >= -1 for size in shape), "at most one size may be -1")
    elements, known = x.elements, math.prod(size for size in shape if size != -1)
    if -1 not in shape:
        need(known == elements and (not x.grows or not elements), "another number of elements")
        return Type(tuple(shape), x.dtype)
    need(known > 0 and elements % known == 0, "another number of elements")
    rest = Images(elements // known) if x.grows and elements else elements // known
    return Type(tuple(rest if size == -1 else size for size in shape), x.dtype)


def expand(node: Node, inputs: Sequence[Type]) -> Type:
    """Dimensions of the size 1 repeated."""
    (x,), shape = inputs, node["shape"]
    first = len(shape) - len(x.shape)
    need(first >= 0 and all(size >= -1 for size in shape), "it takes a size for each dimension")
    sizes: list[Size] = []
    for place, size in enumerate(shape):
        before = x.shape[place - first] if place >= first else None
        need(size >= 0 or before is not None, "a new dimension needs a size")
        need(size == -1 or before in (None, 1, size), "only what has the size 1 can be expanded")
        sizes.append(size if size != -1 or before is None else before)
    return Type(tuple(sizes), x.dtype)


def permute(node: Node, inputs: Sequence[Type]) -> Type:
    """Dimensions in another order."""
    (x,) = inputs
    places = places_of(node["dims"], len(x.shape))
    need(len(places) == len(x.shape), "it takes all dimensions")
    return Type(tuple(x.shape[place] for place in places), x.dtype)


def transpose(node: Node, inputs: Sequence[Type]) -> Type:
    """Two dimensions exchanged."""
    sizes = list(inputs[0].shape)
    one, other = (place_of(node[name], len(sizes)) for name in ("dim0", "dim1"))
    sizes[one], sizes[other] = sizes[other], sizes[one]
    return Type(tuple(sizes), inputs[0].dtype)


def unsqueeze(node: Node, inputs: Sequence[Type]) -> Type:
    """A dimension of the size 1 more."""
    place = place_of(node["dim"], len(inputs[0].shape) + 1)
    return Type((*inputs[0].shape[:place], 1, *inputs[0].shape[place:]), inputs[0].dtype)


def squeeze(node: Node, inputs: Sequence[Type]) -> Type:
    """Dimensions of the size 1 left out."""
    (x,) = inputs
    places = places_of(node["dims"], len(x.shape))
    need(not any(isinstance(x.shape[place], Images) for place in places), "one image alone has the size 1")
    return Type(tuple(s for place, s in enumerate(x.shape) if place not in places or s != 1), x.dtype)


def select(node: Node, inputs: Sequence[Type]) -> Type:
    """One index of a dimension."""
    (x,) = inputs
    place = place_of(node["dim"], len(x.shape))
    size = fixed(x.shape[place], "what is selected from")
    need(-size <= node["index"] < size, f"there is no index {node['index']}")
    return Type((*x.shape[:place], *x.shape[place + 1 :]), x.dtype)


def sliced(node: Node, inputs: Sequence[Type]) -> Type:
    """A range of a dimension."""
    (x,) = inputs
    place = place_of(node["dim"], len(x.shape))
    need(node["step"] > 0, "`step` must be above 0")
    size = x.shape[place]
    if isinstance(size, Images):
        whole = (node["start"] or 0, node["step"]) == (0, 1) and (node["end"] is None or node["end"] >= 1 << 31)
        need(whole, "single images cannot be selected")
        return x
    start, end, step = slice(node["start"], node["end"], node["step"]).indices(size)
    return Type((*x.shape[:place], len(range(start, end, step)), *x.shape[place + 1 :]), x.dtype)


def cat(node: Node, inputs: Sequence[Type]) -> Type:
    """Inputs side by side."""
    first = inputs[0]
    place = place_of(node["dim"], len(first.shape))
    total: Size = 0
    for item in inputs:
        same = item.dtype == first.dtype and len(item.shape) == len(first.shape)
        rests = [item.shape[:place] + item.shape[place + 1 :] for item in (item, first)] if same else [(0,), (1,)]
        need(rests[0] == rests[1], "its inputs do not fit each other")
        total = _sum(total, item.shape[place])
    return Type((*first.shape[:place], total, *first.shape[place + 1 :]), first.dtype)


def _sum(one: Size, other: Size) -> Size:
    if isinstance(one, Images) and isinstance(other, Images):
        return Images(one.each + other.each)
    if isinstance(other, Images) or isinstance(one, Images):
        need(one == 0, "images and other rows are mixed")
        return other
    return one + other


def pad(node: Node, inputs: Sequence[Type]) -> Type:
    """Elements around."""
    (x,), widths = inputs, node["padding"]
    rank = len(x.shape)
    need(len(widths) % 2 == 0 and len(widths) <= 2 * rank, "it takes two widths for each dimension")
    sizes = list(x.shape)
    for i in range(len(widths) // 2):
        before, behind = widths[2 * i : 2 * i + 2]
        if before or behind:
            place = rank - 1 - i
            size = fixed(sizes[place], "what is padded")
            _padded(node, size, before, behind)
            sizes[place] = size + before + behind
    if node["mode"] != "constant":
        need(node["value"] in (None, 0) and len(widths) in (2, 4, 6), "widths or value do not fit the mode")
        need(rank - len(widths) // 2 in (1, 2), "widths do not fit the map")
        need(node["mode"] == "circular" or 0 not in x.shape[1:], "nothing can be repeated of an empty map")
        need_floats(x)
    need(x.dtype == "f32" or isinstance(node["value"], int | None), "a float cannot pad whole numbers")
    return Type(tuple(sizes), x.dtype)


def _padded(node: Node, size: int, before: int, behind: int) -> None:
    most = {"constant": None, "replicate": None, "reflect": size - 1, "circular": size}
    need(node["mode"] in most, f"`mode` must be one of {list(most)}, got {node['mode']:.60}")
    limit = most[node["mode"]]
    need(size + min(before, 0) + min(behind, 0) >= 0, "it cuts off more than there is")  # torch cuts before it pads
    if node["mode"] != "constant":
        need(min(before, behind) >= 0 and size > 0, "only zeros may be cut off")
    need(limit is None or max(before, behind) <= limit, "it repeats more than there is")
