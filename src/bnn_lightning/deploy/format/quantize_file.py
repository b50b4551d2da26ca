"""A packed file written once more, with other precision."""

from pathlib import Path

from bnn_lightning.deploy.format.container import read_container
from bnn_lightning.deploy.format.info import PackedInfo
from bnn_lightning.deploy.format.packed_file import file_bytes, graph_of, write_whole
from bnn_lightning.deploy.passes.quantize_stem import quantize_stem


def write_byte_stem(source: str | Path, out: str | Path) -> None:
    """Write a packed file once more, with its stem on bytes.

    Args:
        source: A packed file with a stem in float32.
        out: The file to write.

    Raises:
        GraphError: See `quantize_stem`.
        PackedFileError: The file is damaged.
    """
    container = read_container(source)
    graph = quantize_stem(graph_of(container))
    info = PackedInfo.from_plain(container.header.get("info"))
    data, _ = file_bytes(graph, info, {**container.header, "graph": graph.plain(), "stem": "u8"})
    write_whole(out, data)
