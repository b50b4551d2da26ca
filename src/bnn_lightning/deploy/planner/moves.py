"""Lowering of what only moves elements: flatten, permute, reshape, as one copy between strides."""

from collections.abc import Sequence

from bnn_lightning.deploy.ir.graph import Value
from bnn_lightning.deploy.ir.types import Images, Size
from bnn_lightning.deploy.kernels.call import KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.copy import copy_strided
from bnn_lightning.deploy.planner.lowering import IMAGES, Lowering, Places
from bnn_lightning.deploy.planner.operands import joined
from bnn_lightning.deploy.planner.typed_graph import TypedGraph
from bnn_lightning.deploy.planner.views import View, dense_strides, memory_strides

_MOST = 3  # dimensions of a copy beside that of the images


def copying(graph: TypedGraph, number: int) -> Lowering | None:
    """A value in another shape or order, which lies in memory otherwise than what it is made of."""
    view, out = graph.views[number], memory_strides(graph.types[number])
    if view is None or view.root == number:  # a reshape joins what is not dense: it is copied in the order of its input
        item = graph.graph.nodes[number - 1].inputs[0]
        view = graph.views[item.number] if isinstance(item, Value) else None
        if view is None or graph.nodes[number - 1].operation != "reshape":
            return None
        joins = _strides_within(view.sizes, graph.types[number].shape, out)
        dense = dense_strides(view.sizes, range(len(view.sizes)))
        out = dense if joins is None and len(graph.types[number].shape) != 4 else joins
    if out is None or graph.types[view.root].dtype != "f32" or not graph.types[number].elements:
        return None
    return _lowered(graph, number, view, out)


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


def _lowered(graph: TypedGraph, number: int, view: View, out: tuple[int, ...]) -> Lowering | None:
    dims = [dim for dim in zip(view.sizes, view.strides, out, strict=True) if dim[0] != 1]
    images = [dim for dim in dims if dim[0] == Images(1)]
    fixed = sorted(((size, (x, to)) for size, x, to in dims if isinstance(size, int)), key=lambda dim: -dim[1][1])
    others = [(size, steps[0], steps[1]) for size, steps in joined(fixed, _MOST) or fixed]
    if len(images) != 1 or len(fixed) + 1 != len(dims) or len(others) > _MOST:
        return None
    steps, source = images[0][1:], view.root
    planes = None if source or view.offset else _in_planes(graph, [(Images(1), steps[0]), *(dim[:2] for dim in others)])
    if planes is not None:
        steps, others = (planes[0], steps[1]), [(dim[0], x, dim[2]) for dim, x in zip(others, planes[1:], strict=True)]
        source = IMAGES  # as they come: planes

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        planar = source == IMAGES
        x = graph.images.address if planar else places[source] + 4 * view.offset
        in_bytes = planar and graph.images.in_bytes
        return [copy_strided(x, places[number], steps, others, in_bytes=in_bytes, node=number)]

    return Lowering(number, (source,), build)


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
