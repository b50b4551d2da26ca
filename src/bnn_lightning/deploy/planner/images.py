"""Lowering of the images as a map of floats, channels side by side: a copy of their planes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.deploy.ir.graph import Value
from bnn_lightning.deploy.kernels.call import KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.copy import copy_strided
from bnn_lightning.deploy.kernels.layout import Shape
from bnn_lightning.deploy.planner.lowering import IMAGES, Lowering, Places
from bnn_lightning.deploy.planner.match import Chain
from bnn_lightning.deploy.planner.typed_graph import TypedGraph

Array = NDArray[Any]


def images(graph: TypedGraph) -> Lowering | None:
    """The images as they are."""
    shape = graph.map_shape(Value(0))
    return None if shape is None else _copied(graph, 0, shape, ())


def normalization(graph: TypedGraph, number: int) -> Lowering | None:
    """The normalization of images by itself."""
    shape = graph.map_shape(Value(number))
    if shape is None:
        return None
    chain = Chain.from_value(graph, Value(number))
    given = chain.normalization(shape[0])
    return None if given is None or chain.at != Value(0) else _copied(graph, number, shape, given)


def _copied(graph: TypedGraph, number: int, shape: Shape, given: Sequence[Array]) -> Lowering:
    """The images, and with a mean and a standard deviation of each channel normalized.

    The longer loop is the inner one; the channels of a normalization are the outer one.
    """
    channels, pixels = shape[0], shape[1] * shape[2]
    planes, row = (channels, pixels, 1), (pixels, 1, channels)  # size, strides of what is read and what is written
    dims = [row, planes] if channels > pixels and not given else [planes, (1, 0, 0), row]

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        x, image = graph.images, (channels * pixels, channels * pixels)
        values = [constants.add(item.astype(np.float32)) for item in given]
        return [
            copy_strided(x.address, places[number], image, dims, in_bytes=x.in_bytes, normalization=values, node=number)
        ]

    return Lowering(number, (IMAGES,), build)
