"""Networks as packed files: `save` one, with the plans that run it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from bnn_lightning.deploy.format.container import PackedFileError, container_bytes, read_container
from bnn_lightning.deploy.format.info import PackedInfo
from bnn_lightning.deploy.format.packed_file import file_bytes, write_whole
from bnn_lightning.deploy.kernels.job import CallError
from bnn_lightning.deploy.passes.quantize_stem import quantize_stem
from bnn_lightning.deploy.passes.quantize_weights import quantize_weights
from bnn_lightning.deploy.runtime.network import load
from bnn_lightning.deploy.runtime.packed_network import PackedNetwork

# Precision of real-valued weights in a file; what the first convolution computes with.
Rest = Literal["fp32", "int8"]
Stem = Literal["fp32", "u8"]


@dataclass(frozen=True)
class FileSizes:
    """Bytes of a packed file.

    Attributes:
        total: Bytes of the file.
        header: Bytes of its header, compressed.
        binary: Bytes of the signs.
        rest: Bytes of all other tensors.
    """

    total: int
    header: int
    binary: int
    rest: int


def save(
    packed: PackedNetwork, path: str | Path, info: PackedInfo, *, rest: Rest = "fp32", stem: Stem = "fp32"
) -> FileSizes:
    """Write a packed network to one file.

    Args:
        packed: From `pack`.
        path: The file; an older one is replaced when the new one is complete.
        info: Facts of the network.
        rest: Weights of real convolutions and linear layers: "fp32", or "int8" with a scale of each output channel
            (`quantize_weights`), a quarter of the size.
        stem: Arithmetic of the convolution that reads the images: "fp32", or "u8", bytes for pixels and int8 for
            weights (`quantize_stem`).

    Returns:
        The sizes of the parts.

    Raises:
        GraphError: The network does what a file cannot say, or has no stem that takes bytes.
        ValueError: There are names for another number of classes; `info` holds other values than plain ones; an unknown
            `rest` or `stem`; or `load` would refuse the file. Nothing is written then.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from bnn_lightning.deploy import pack
        >>> from bnn_lightning.models import create_backbone
        >>> packed = pack(create_backbone("resnet20", num_classes=10, image_size=32).eval())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sizes = save(packed, f"{folder}/net.bnn", PackedInfo("resnet20", in_channels=3, image_size=32))
        ...     network = load(f"{folder}/net.bnn")
        >>> sizes.binary, network(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape
        (33408, torch.Size([1, 10]))
    """
    for name, value, known in (("rest", rest, get_args(Rest)), ("stem", stem, get_args(Stem))):
        if value not in known:
            raise ValueError(f"`{name}` must be one of {list(known)}, got {value!r}.")
    graph = packed.graph(info.shape)
    graph = quantize_stem(graph) if stem == "u8" else graph
    graph = quantize_weights(graph) if rest == "int8" else graph
    header: dict[str, Any] = {"graph": graph.plain(), "info": info.plain(), "rest": rest, "stem": stem}
    header["takes_images"] = packed.takes_images
    data, _ = container_bytes(header, graph.constants)
    try:
        load(data)
        data, num_header = file_bytes(graph, info, header)
    except (PackedFileError, CallError) as error:
        raise ValueError(f"`{path}` was not written, since it could not be loaded. {error}") from error
    write_whole(path, data)
    container = read_container(data)
    sizes = {"bits": 0, "rest": 0}
    for entry in container.entries:
        sizes["bits" if entry.dtype == "bits" else "rest"] += entry.num_bytes
    return FileSizes(len(data), num_header, sizes["bits"], sizes["rest"])
