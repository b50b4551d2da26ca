"""Graphs and packed files: the graph of a file, and files written whole."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bnn_lightning.deploy.format.container import Container, container_bytes
from bnn_lightning.deploy.ir.graph import Constant, Graph
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


def write_container(path: str | Path, header: Mapping[str, Any], constants: Sequence[Constant]) -> int:
    """Write a packed file without plans; an older one of this name is replaced only when the new one is complete.

    Args:
        path: The file.
        header: As of `container_bytes`.
        constants: As of `container_bytes`.

    Returns:
        Length of the compressed header in bytes.

    Raises:
        ValueError: A value of the header is not plain, or a dtype is unknown.
    """
    data, length = container_bytes(header, constants)
    write_whole(path, data)
    return length


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file; an older one of this name is replaced only when the new one is complete."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
