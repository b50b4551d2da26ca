"""Lowering of what only moves elements: flatten, permute, reshape, as one copy between strides."""

from collections.abc import Sequence

from bnn_lightning.deploy.ir.graph import Value
from bnn_lightning.deploy.ir.types import Images, Size
from bnn_lightning.deploy.kernels.call import KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.copy import copy_strided
from bnn_lightning.deploy.planner.lowering import IMAGES, Lowering, Places
from bnn_lightning.deploy.planner.operands import joined
from bnn_lightning.deploy.planner.typed_graph import TypedGraph, size_of
from bnn_lightning.deploy.planner.views import View, dense_strides, is_whole, memory_strides

_MOST = 3  # dimensions of a copy beside that of the images


def copying(graph: TypedGraph, number: int) -> Lowering | None:
    """A value in another shape or order, which lies in memory otherwise than what it is made of."""
    view, of = graph.views[number], graph.types[number]
    out = memory_strides(of)
    if of.dtype != "f32" or not of.elements or out is None:
        return None
    if view is not None and view.root != number:
        return _lowered(graph, number, view, out)
    item = graph.graph.nodes[number - 1].inputs[0]
    view = graph.views[item.number] if isinstance(item, Value) else None
    if view is None or graph.nodes[number - 1].operation != "reshape":
        return None
    joins = _strides_within(view.sizes, of.shape, out)  # a reshape joins what is not dense
    if joins is not None:
        return _lowered(graph, number, view, joins)
    return _in_two(graph, number, view, out)


def _in_two(graph: TypedGraph, number: int, view: View, out: tuple[int, ...]) -> Lowering | None:
    """A reshape in two copies, to dense elements in the order of its input, and from there; one, if these are it."""
    shape = graph.types[number].shape
    dense, then = (dense_strides(sizes, range(len(sizes))) for sizes in (view.sizes, shape))
    if dense is None or then is None:
        return None
    first = _lowered(graph, number, view, dense)
    if first is None or then == out:
        return first
    parts = _dims(shape, then, out)
    if parts is None:
        return None
    steps, others = parts

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        work = places["work"]
        return [
            *first.build(constants, {**places, number: work}),
            copy_strided(work, places[number], steps, others, node=number),
        ]

    return Lowering(number, first.reads, build, {"work": size_of(graph.types[number])})


def _strides_within(
    sizes: Sequence[Size], shape: Sequence[Size], strides: tuple[int, ...] | None
) -> tuple[int, ...] | None:
    """Return the strides of dimensions that are joined to those of a shape; None where they are not.

    Args:
        sizes: Sizes of the dimensions.
        shape: Sizes of the shape.
        strides: Strides of the shape.

    Example:
        >>> _strides_within((3, 2, 5), (6, 5), (1, 6))
        (2, 1, 6)
    """
    found, at = [0] * len(sizes), len(sizes)
    for size, step in reversed(list(zip(shape, strides or (), strict=False))):
        rest = size
        while rest != 1 and at:
            at -= 1
            inner = sizes[at]
            found[at] = 0 if inner == 1 else step
            if isinstance(rest, int) and isinstance(inner, int) and rest % inner == 0:
                rest, step = rest // inner, step * inner
            elif rest == inner:
                rest = 1
            else:
                return None
        if rest != 1:
            return None
    return tuple(found) if strides is not None and all(size == 1 for size in sizes[:at]) else None


_Dims = tuple[tuple[int, int], list[tuple[int, int, int]]]  # strides of the images; size and strides of the others


def _dims(sizes: Sequence[Size], x: Sequence[int], out: Sequence[int]) -> _Dims | None:
    """Return the dimensions of a copy; None where they are too many for one."""
    images, fixed = list[tuple[int, int]](), list[tuple[int, tuple[int, int]]]()
    for size, step, to in zip(sizes, x, out, strict=True):
        each = size.each if isinstance(size, Images) else size
        if isinstance(size, Images):
            images.append((each * step, each * to))
        if each != 1:
            fixed.append((each, (step, to)))
    others = joined(sorted(fixed, key=lambda dim: -dim[1][1]), _MOST)
    if len(images) != 1 or others is None:
        return None
    return images[0], [(size, steps[0], steps[1]) for size, steps in others]


def _lowered(graph: TypedGraph, number: int, view: View, out: tuple[int, ...]) -> Lowering | None:
    parts, source = _dims(view.sizes, view.strides, out), view.root
    if parts is None or graph.types[source].dtype != "f32":
        return None
    steps, others = parts
    planes = None if source or view.offset else _in_planes(graph, [(Images(1), steps[0]), *(dim[:2] for dim in others)])
    if planes is not None:
        steps, others = (planes[0], steps[1]), [(dim[0], x, dim[2]) for dim, x in zip(others, planes[1:], strict=True)]
        source = IMAGES  # as they come: planes
    whole = source > 0 and out == view.strides and is_whole(view, graph.types[number], graph.types[source])

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        planar = source == IMAGES
        x = graph.images.address if planar else places[source] + 4 * view.offset
        if whole and x == places[number]:
            return []
        in_bytes = planar and graph.images.in_bytes
        return [copy_strided(x, places[number], steps, others, in_bytes=in_bytes, node=number)]

    return Lowering(number, (source,), build, over=(source,) if whole else ())


def _in_planes(graph: TypedGraph, dims: Sequence[tuple[Size, int]]) -> list[int] | None:
    """Return the strides of dimensions of the images in the planes that they come in; None where these have none.

    Args:
        graph: The graph.
        dims: Sizes, and strides in the images as a map with channels side by side.
    """
    own = memory_strides(graph.types[0])
    if own is None:
        return None
    places = sorted(zip(own, graph.types[0].shape, graph.images.strides, strict=True), key=lambda place: place[0])
    steps = [_in_plane(size, step, [place for place in places if place[0] >= step]) for size, step in dims]
    found = [step for step in steps if step is not None]
    return found if len(found) == len(steps) else None


def _in_plane(size: Size, step: int, places: Sequence[tuple[int, Size, int]]) -> int | None:
    if step == 0:  # one place, or the same one again and again
        return 0
    if not places or places[0][0] != step:
        return None
    _, reach, to = places[0]
    for _, more, outer in places[1:]:  # it may be several dimensions, if these are dense in both
        if reach == size or isinstance(reach, Images) or isinstance(more, Images) or outer != to * reach:
            break
        reach *= more
    shorter = isinstance(size, int) and isinstance(reach, int) and size < reach
    return to if size == reach or shorter else None
