"""Lowering of what only moves elements: flatten, permute, reshape, as one copy between strides."""

from bnn_lightning.deploy.ir.graph import Value
from bnn_lightning.deploy.ir.types import Images
from bnn_lightning.deploy.kernels.call import KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.copy import copy_strided
from bnn_lightning.deploy.planner.lowering import IMAGES, Lowering, Places
from bnn_lightning.deploy.planner.typed_graph import TypedGraph
from bnn_lightning.deploy.planner.views import View, dense_strides, memory_strides

_MOST = 3  # dimensions of a copy beside that of the images


def copying(graph: TypedGraph, number: int) -> Lowering | None:
    """A value in another shape or order, which lies in memory otherwise than what it is made of."""
    view, out = graph.views[number], memory_strides(graph.types[number])
    shape = graph.types[number].shape
    if view is None or view.root == number:  # a reshape joins what is not dense: it is copied in the order of its input
        item = graph.graph.nodes[number - 1].inputs[0]
        view = graph.views[item.number] if isinstance(item, Value) else None
        if view is None or len(shape) == 4 or graph.nodes[number - 1].operation != "reshape":
            return None
        out = dense_strides(view.sizes, range(len(view.sizes)))
    if out is None or graph.types[view.root].dtype != "f32" or not graph.types[number].elements:
        return None
    return _lowered(graph, number, view, out)


def _lowered(graph: TypedGraph, number: int, view: View, out: tuple[int, ...]) -> Lowering | None:
    dims = [dim for dim in zip(view.sizes, view.strides, out, strict=True) if dim[0] != 1]
    images = [dim for dim in dims if dim[0] == Images(1)]
    others = [(size, x, to) for size, x, to in dims if isinstance(size, int)]
    if len(images) != 1 or len(others) + 1 != len(dims) or len(others) > _MOST:
        return None
    steps, source = images[0][1:], view.root
    own = memory_strides(graph.types[0])
    planes = {} if own is None or source else dict(zip(own, graph.images.strides, strict=True))
    if planes.keys() >= {steps[0], *(x for _, x, _ in others)} and len(planes) == 4 and not view.offset:
        steps, others = (planes[steps[0]], steps[1]), [(size, planes[x], to) for size, x, to in others]
        source = IMAGES  # as they come: planes

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        planar = source == IMAGES
        x = graph.images.address if planar else places[source] + 4 * view.offset
        in_bytes = planar and graph.images.in_bytes
        return [copy_strided(x, places[number], steps, others, in_bytes=in_bytes, node=number)]

    return Lowering(number, (source,), build)
