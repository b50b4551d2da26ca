"""Graphs and packed files: the graph of a file, and files written whole."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bnn_lightning.deploy.format.container import Container, container_bytes
from bnn_lightning.deploy.format.info import PackedInfo
from bnn_lightning.deploy.format.layouts import plain_layout, to_layout
from bnn_lightning.deploy.format.plan_section import PlanSection
from bnn_lightning.deploy.ir.graph import Constant, Graph, GraphError
from bnn_lightning.deploy.ir.shapes import types_of
from bnn_lightning.deploy.ir.types import ShapeError
from bnn_lightning.deploy.kernels.constants import ConstantSection, Placement
from bnn_lightning.deploy.planner.planner import make_plans
from bnn_lightning.deploy.planner.select import name_of
from bnn_lightning.utils.files import replacing


def constants_of(container: Container) -> tuple[Constant, ...]:
    """Return the constants of a file, read when they are asked for."""
    return tuple(
        Constant(entry.name, entry.dtype, entry.shape, partial(container.array, index))
        for index, entry in enumerate(container.entries)
    )


def graph_of(container: Container) -> Graph:
    """Return the graph of a file.

    Raises:
        ValueError: The header has none, or one that this version does not know.
    """
    return Graph.from_plain(container.header.get("graph"), constants_of(container))


def file_bytes(graph: Graph, info: PackedInfo, header: Mapping[str, Any]) -> tuple[bytes, int]:
    """Return the bytes of a file with the plans that run it without torch, and the length of its header.

    A graph that mixes the images of a call has none.

    Args:
        graph: Graph of the network.
        info: Its name, images and classes.
        header: See `container_bytes`.
    """
    section = ConstantSection()
    try:
        types = types_of(graph, info.shape)
        plans = make_plans(graph, types, section)
    except (GraphError, ShapeError):
        return container_bytes(header, graph.constants)
    operations = {number: name_of(graph, types, number) for plan in plans for number in plan.torch_nodes}
    takes_images = header.get("takes_images") is not False
    plan = PlanSection(plans, info.name, info.class_names, info.preparation, operations, takes_images).to_bytes()
    placed = {
        number: (place.offset, place.layout, place.groups)
        for number, place in section.placements.items()
        if _lies_at(graph.constants[number], place, section.data)
    }
    for number, constant in enumerate(graph.constants):
        if number not in placed:  # parameters that kernels read as they are lie in the section already
            layout = plain_layout(constant.dtype)
            placed[number] = section.add(to_layout(constant.array, layout, constant.dtype)).offset, layout, 1
    return container_bytes(header, graph.constants, placed=placed, section=section.data, plan=plan)


def _lies_at(constant: Constant, place: Placement, section: bytearray) -> bool:
    """Whether a section has exactly this constant in a place: kernels may read it in another type."""
    try:
        stored = to_layout(constant.array, place.layout, constant.dtype, place.groups).tobytes()
    except ValueError:
        return False
    return section[place.offset : place.offset + len(stored)] == stored


def write_container(path: str | Path, header: Mapping[str, Any], constants: Sequence[Constant]) -> int:
    """Write a packed file without plans; an older one of this name is replaced only when the new one is complete.

    Args:
        path: The file.
        header: See `container_bytes`.
        constants: See `container_bytes`.

    Returns:
        Length of the compressed header in bytes.

    Raises:
        ValueError: See `container_bytes`.
    """
    data, length = container_bytes(header, constants)
    write_whole(path, data)
    return length


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file; an older one of this name is replaced only when the new one is complete."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
