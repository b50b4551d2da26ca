"""The packed file: a header that says what the network is, and its tensors, one bit a sign. Read and written by numpy.

    bytes 0-7      b"BNNPACK" and the version of the format, one byte
    bytes 8-11     length of the header
    bytes 12-15    CRC-32 of the header
    bytes 16-23    length of the tensors
    bytes 24-55    SHA-256 of the tensors
    bytes 56-59    CRC-32 of bytes 0-55
    bytes 60-63    zero
    header         JSON, compressed (xz); zeros up to a multiple of 64
    tensors        little-endian, row by row, in the order of the header's table; each from a multiple of 64 on, zeros
                   between them

Numbers are little-endian. Every bit of a file is covered by a checksum or must be zero, and the first 64 bytes say how
long it is.
"""

import hashlib
import json
import lzma
import mmap
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bnn_lightning.deploy.ir.graph import Array, Constant
from bnn_lightning.utils.files import replacing

VERSION = 4
_MAGIC = b"BNNPACK"
_PREFIX = struct.Struct("<7sBIIQ32s")
_ALIGN = 64
_MOST_HEADER = 1 << 22  # bytes of the JSON text: far beyond any network's, and no danger to memory
_XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 1 << 20}]
_MOST_MEMORY = 1 << 24  # bytes, to inflate a header
DTYPES = {"f32": "<f4", "i8": "|i1", "i32": "<i4", "i64": "<i8", "bits": "|u1"}


class PackedFileError(ValueError):
    """A packed file is damaged, truncated, or not one."""


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies.

    Attributes:
        name: Of the tensor in the network.
        dtype: A key of `DTYPES`; "bits" is a sign a bit, 1 for +1, the first in the lowest bit.
        shape: Of the tensor, in elements.
        offset: Of its first byte among the tensors.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor."""
        elements = 1
        for size in self.shape:
            elements *= size
        return (elements + 7) // 8 if self.dtype == "bits" else elements * np.dtype(DTYPES[self.dtype]).itemsize


@dataclass(frozen=True)
class Container:
    """A packed file that was read: its header, and its tensors in place.

    Attributes:
        header: What stands in the header beside the table of tensors.
        entries: The table of tensors, in order.
        data: The bytes of all tensors; mapped, not read, where they come from a file.
    """

    header: dict[str, Any]
    entries: tuple[Entry, ...]
    data: memoryview

    def raw(self, index: int) -> Array:
        """Return a tensor as it is stored, without a copy: bytes, (num_bytes,), if its dtype is "bits"."""
        entry = self.entries[index]
        part = self.data[entry.offset : entry.offset + entry.num_bytes]
        flat = np.frombuffer(part, dtype=DTYPES[entry.dtype])
        return flat if entry.dtype == "bits" else flat.reshape(entry.shape)

    def array(self, index: int) -> Array:
        """Return a tensor with its shape; signs as int8, -1 and +1."""
        entry, raw = self.entries[index], self.raw(index)
        return unpack_signs(raw, entry.shape) if entry.dtype == "bits" else raw

    @property
    def constants(self) -> tuple[Constant, ...]:
        """The tensors as constants of a graph."""
        return tuple(
            Constant(entry.name, entry.dtype, entry.shape, partial(self.array, index))
            for index, entry in enumerate(self.entries)
        )


def pack_signs(signs: Array) -> Array:
    """Pack signs, any shape, to uint8, (ceil(elements / 8),).

    Example:
        >>> pack_signs(np.array([1, -1, 1]))
        array([5], dtype=uint8)
    """
    return np.packbits(signs.reshape(-1) > 0, bitorder="little")


def unpack_signs(packed: Array, shape: tuple[int, ...]) -> Array:
    """Undo `pack_signs`: int8, -1 and +1.

    Example:
        >>> unpack_signs(np.array([5], dtype=np.uint8), (3,))
        array([ 1, -1,  1], dtype=int8)
    """
    elements = int(np.prod(shape, dtype=np.int64))
    bits = np.unpackbits(packed, count=elements, bitorder="little")
    return (2 * bits.astype(np.int8) - 1).reshape(shape)


def write_container(path: str | Path, header: Mapping[str, Any], constants: Sequence[Constant]) -> int:
    """Write a packed file; an older one of this name is replaced only when the new one is complete.

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


def container_bytes(header: Mapping[str, Any], constants: Sequence[Constant]) -> tuple[bytes, int]:
    """Return the bytes of a packed file, and the length of its compressed header.

    Args:
        header: Plain values; the key "tensors" is taken.
        constants: Tensors; their dtype is a key of `DTYPES`.

    Raises:
        ValueError: A value of the header is not plain, or a dtype is unknown.
    """
    entries, data = _lay_out(constants)
    text = json.dumps({**header, "tensors": entries}, separators=(",", ":"), allow_nan=False, sort_keys=True)
    compressed = lzma.compress(text.encode("utf-8"), check=lzma.CHECK_NONE, filters=_XZ)  # it has a checksum of ours
    prefix = _PREFIX.pack(
        _MAGIC, VERSION, len(compressed), zlib.crc32(compressed), len(data), hashlib.sha256(data).digest()
    )
    start = prefix + struct.pack("<II", zlib.crc32(prefix), 0) + compressed
    return start + bytes(-len(start) % _ALIGN) + data, len(compressed)


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file; an older one of this name is replaced only when the new one is complete."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def read_container(source: str | Path | bytes) -> Container:
    """Read a packed file and check all of it: lengths, checksums, types, places. Tensors are mapped, not copied.

    Args:
        source: The file, or its bytes.

    Raises:
        PackedFileError: It is truncated, damaged, of another version, or no packed file.
        OSError: It cannot be opened.
    """
    data = memoryview(source) if isinstance(source, bytes) else _map(Path(source))
    name = "These bytes" if isinstance(source, bytes) else f"`{source}`"
    length, crc, num_data, digest = _prefix(data, name)
    begin = 64 + length + (-(64 + length) % _ALIGN)
    if len(data) != begin + num_data:
        raise PackedFileError(
            f"{name} must have {begin + num_data} bytes and has {len(data)}: it is truncated, or something follows it."
        )
    compressed, tensors = data[64 : 64 + length], data[begin:]
    if zlib.crc32(compressed) != crc or any(data[64 + length : begin]):
        raise PackedFileError(f"{name} is damaged: the checksum of its header does not hold.")
    if hashlib.sha256(tensors).digest() != digest:
        raise PackedFileError(f"{name} is damaged: the checksum of its tensors does not hold.")
    header = _parse(compressed, name)
    entries = _entries(header.pop("tensors", None), num_data, name)
    return Container(header, entries, tensors)


def _lay_out(constants: Sequence[Constant]) -> tuple[list[list[Any]], bytes]:
    entries, parts = [], []
    for constant in constants:
        name, dtype = constant.name, constant.dtype
        if dtype not in DTYPES:
            raise ValueError(f"The dtype of `{name}` must be one of {list(DTYPES)}, got {dtype!r}.")
        values = constant.array
        stored = pack_signs(values) if dtype == "bits" else np.ascontiguousarray(values, dtype=DTYPES[dtype])
        entries.append([name, dtype, list(values.shape)])
        part = stored.tobytes()
        parts += [part, bytes(-len(part) % _ALIGN)]
    return entries, b"".join(parts)


def _map(path: Path) -> memoryview:
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise PackedFileError(f"`{path}` is empty.")
        # Private and writable, so that tensors may share the pages; nothing is ever written back.
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def _prefix(data: memoryview, name: str) -> tuple[int, int, int, bytes]:
    if len(data) < 64 or bytes(data[: len(_MAGIC)]) != _MAGIC:
        raise PackedFileError(f"{name} is not a packed network (`bnn export` writes one), or is truncated.")
    _, version, length, crc, num_data, digest = _PREFIX.unpack(data[: _PREFIX.size])
    check, zero = struct.unpack("<II", data[_PREFIX.size : 64])
    if zlib.crc32(data[: _PREFIX.size]) != check or zero:
        raise PackedFileError(f"{name} is damaged in its first 64 bytes.")
    if version != VERSION:
        raise PackedFileError(f"{name} has version {version} of the format, this package reads version {VERSION}.")
    return length, crc, num_data, digest


def _parse(compressed: memoryview, name: str) -> dict[str, Any]:
    inflate = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_MEMORY)
    try:
        text = inflate.decompress(compressed, _MOST_HEADER)
        header = (
            json.loads(text.decode("utf-8"), parse_constant=_no_number)
            if inflate.eof and not inflate.unused_data
            else None
        )
    except (lzma.LZMAError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise PackedFileError(f"{name}: its header cannot be read: {error}") from error
    if not isinstance(header, dict):
        raise PackedFileError(f"{name}: its header is no JSON object of at most {_MOST_HEADER} bytes.")
    return header


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON.")


def _entries(table: Any, num_data: int, name: str) -> tuple[Entry, ...]:
    if not isinstance(table, list):
        raise PackedFileError(f"{name}: its header has no table of tensors.")
    entries: list[Entry] = []
    end = 0
    for row in table:
        entry = _entry(row, end + (-end % _ALIGN))
        if entry is None or entry.offset + entry.num_bytes > num_data:
            raise PackedFileError(f"{name}: its table of tensors is wrong at entry {len(entries)}.")
        entries.append(entry)
        end = entry.offset + entry.num_bytes
    if end + (-end % _ALIGN) != num_data or len({entry.name for entry in entries}) != len(entries):
        raise PackedFileError(f"{name}: its table of tensors does not describe its {num_data} bytes.")
    return tuple(entries)


def _entry(row: Any, offset: int) -> Entry | None:
    match row:
        case [str(name), str(dtype), [*shape]] if dtype in DTYPES:
            if len(shape) <= 8 and all(type(size) is int and 0 <= size < 1 << 48 for size in shape):
                return Entry(name, dtype, tuple(shape), offset)
    return None
